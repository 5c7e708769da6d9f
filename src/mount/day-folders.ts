/** `by-time/`: a folder for each day, UTC as in all names, with links to the points that were taken on it. */
import type { DirectoryNode } from '../files/file-tree.ts'
import { NAME_BYTES_MAX } from '../files/name.ts'
import { virtualDirectory } from '../files/virtual-node.ts'
import { found, type Listing, type PointListing } from './listing.ts'
import { dayName, safeName } from './names.ts'
import { batched, FOLDER, linkTo, ours, type Place } from './nodes.ts'

interface DayLink {
  readonly name: string
  readonly target: string
  readonly modified: Date
}

/** By name. */
type DayLinks = ReadonlyMap<string, DayLink>

/** By day, ascending; of each listing once. */
const daysOf = new WeakMap<Listing, ReadonlyMap<string, DayLinks>>()

export function dayFolders(listing: PointListing, place: Place): DirectoryNode {
  return virtualDirectory({
    ...ours(place, 3n, FOLDER),
    isFrozen: false,
    async *entries(options) {
      const days = [...linksByDay(await listing.current(options))]
      yield* batched(days, ([name]) => ({ name, node: dayFolder(listing, place, name) }))
    },
    async lookup(name, options) {
      const listed = await listing.current(options)
      return found(linksByDay(listed).get(name), listed) && dayFolder(listing, place, name)
    },
  })
}

const DAY_MS = 24 * 3_600_000

function dayFolder(listing: PointListing, place: Place, day: string): DirectoryNode {
  const begin = new Date(`${day}T00:00:00Z`)
  const nodeOf = ({ name, target, modified }: DayLink) => linkTo({ ...place, tree: 'by-time', modified }, name, target)
  const linksOf = (listed: Listing): DayLinks => linksByDay(listed).get(day) ?? new Map()
  return virtualDirectory({
    ...ours({ ...place, tree: 'days', modified: begin }, BigInt(begin.getTime() / DAY_MS), FOLDER),
    isFrozen: false,
    async *entries(options) {
      const links = [...linksOf(await listing.current(options)).values()]
      yield* batched(links, link => ({ name: link.name, node: nodeOf(link) }))
    },
    async lookup(name, options) {
      const listed = await listing.current(options)
      const link = found(linksOf(listed).get(name), listed)
      return link && nodeOf(link)
    },
  })
}

function linksByDay(listed: Listing): ReadonlyMap<string, DayLinks> {
  const known = daysOf.get(listed)
  if (known) return known
  const days = new Map<string, Map<string, DayLink>>()
  for (const { name: vm, points } of listed.vms.values())
    for (const [time, { vm: title, takenAt }] of points) {
      const day = dayName(takenAt)
      const ofDay = days.get(day)
      // The time is what tells them apart, so the VM's name gives way.
      const room = NAME_BYTES_MAX - time.length - 1
      const short = Buffer.byteLength(vm) <= room ? vm : safeName(title, { reserve: time.length + 1 })
      const name = `${short}-${time}`
      const link = { name, target: `../../by-vm/${vm}/${time}`, modified: takenAt }
      if (ofDay) ofDay.set(name, link)
      else days.set(day, new Map([[name, link]]))
    }
  const sorted = new Map([...days].sort(([a], [b]) => (a < b ? -1 : 1)))
  daysOf.set(listed, sorted)
  return sorted
}
