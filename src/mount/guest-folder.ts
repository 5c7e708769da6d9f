/** `files/` of a point: a folder for each volume of its guest, and for each that cannot be read a text that says why. */
import { isLifeboatError, type LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, Entry } from '../files/file-tree.ts'
import { virtualDirectory } from '../files/virtual-node.ts'
import type { Volume } from '../guest/guest-filesystems.ts'
import { unreadable } from '../guest/open-guest.ts'
import type { PointSummary } from '../repository/repository.ts'
import { guestEntries, guestLookup } from './guest-nodes.ts'
import { distinctNames, safeName } from './names.ts'
import { FOLDER, ours, type Place, textFile } from './nodes.ts'
import { type OpenGuestFiles, type UseGuest, withGuest } from './open-guest-files.ts'

export interface GuestFolderRequest {
  readonly point: PointSummary
  readonly place: Place
  readonly inode: bigint
  readonly useGuest: UseGuest
}

const ENDING = '.txt'

export function guestFolder(request: GuestFolderRequest): DirectoryNode {
  const { point, place, inode } = request
  return virtualDirectory({
    ...ours(place, inode, FOLDER),
    // That a volume is damaged may be found when it is opened.
    isFrozen: false,
    async entries(options) {
      try {
        return await volumeEntries(request, options)
      } catch (error) {
        if (!isLifeboatError(error) || !isOfHost(error)) throw error
        return [{ name: `README${ENDING}`, node: textFile(place, explanation('the guest', error, point)) }]
      }
    },
  })
}

async function volumeEntries(request: GuestFolderRequest, options: AbortOptions): Promise<readonly Entry[]> {
  const { point, place, useGuest } = request
  return await withGuest(useGuest, options, async guest => {
    const distinct = distinctNames()
    const volumes = (await guest.volumes(options)).filter(({ state }) => state !== 'nothing')
    return volumes.map((volume): Entry => {
      const { name, state } = volume
      const failure = guest.failures.get(name) ?? (state === 'readable' ? undefined : unreadable(volume))
      if (!failure) return { name: distinct(safeName(name)), node: volumeFolder(request, volume) }
      const node = textFile(place, explanation(name, failure, point))
      return { name: distinct(safeName(name, { reserve: ENDING.length }) + ENDING), node }
    })
  })
}

/** The volume is opened by whoever looks into its folder, so that listing the names costs nothing but their list. */
function volumeFolder({ point, place, useGuest }: GuestFolderRequest, { name }: Volume): DirectoryNode {
  const within = {
    useGuest,
    tree: `${point.id}/files/${name}`,
    resolve: async (guest: OpenGuestFiles, options: AbortOptions) => (await guest.tree(name, options)).root,
  }
  return virtualDirectory({
    ...ours({ ...place, tree: `${point.id}/volumes/${name}` }, 1n, FOLDER),
    entries: options => guestEntries(within, options),
    lookup: (wanted, options) => guestLookup(within, wanted, options),
  })
}

/** What this host lacks. Failures of the store, of the key or of a signal are those of who asked. */
const isOfHost = ({ code }: LifeboatError): boolean =>
  code === 'guest-unsupported' || code === 'appliance-unavailable' || code === 'tool-missing'

const explanation = (what: string, { message, details }: LifeboatError, { vm, id }: PointSummary): string =>
  [
    `The files of ${what} in ${vm}@${id} cannot be read here:`,
    message,
    ...(details.hint ? [`What to do: ${details.hint}`] : []),
    '',
    `\`lifeboat boot ${vm}@${id}\` runs it without changing anything of the backup; its disks are in ../disks.`,
    '',
  ].join('\n')
