/** The words of `files` that name a point, and a path in it. */
import { LifeboatError } from '../core/errors.ts'
import { hostZone } from '../repository/local-time.ts'
import { type PointReference, parsePointReference } from '../repository/point-ref.ts'

/** `VM[/DISK[/VOLUME]]:/path`: a file of a VM at no point in particular. */
export interface VmPlace {
  readonly vm: string
  readonly words?: string
  readonly path: string
}

/** The places of one call are all of one point, which is pinned and opened once. */
export function placesOf(texts: readonly string[], action: string): readonly PointReference[] {
  const places = texts.map(text => parsePointReference(text, { zone: hostZone() }))
  const [first] = places
  if (!first)
    throw new LifeboatError('usage', `files ${action} needs a point`, {
      hint: `for example: lifeboat files ${action} web1@latest:/etc`,
    })
  if (places.some(place => pointOf(place) !== pointOf(first)))
    throw new LifeboatError('usage', `files ${action} reads one point at a time`, {
      hint: 'Call it once for each point; `lifeboat files diff` compares two.',
    })
  return places
}

const pointOf = ({ vm, at, back }: PointReference): string => JSON.stringify([vm, at, back])

/** `vms`: a VM's name may hold a slash, so that the longest that fits is taken. */
export function parseVmPlace(text: string, vms: readonly string[]): VmPlace {
  const fitting = vms.filter(name => text.startsWith(`${name}:`) || text.startsWith(`${name}/`))
  const vm = fitting.sort((a, b) => b.length - a.length)[0] ?? /^[^/:@]*/.exec(text)?.[0] ?? ''
  const found = /^(?:\/(?<words>.+?))?:(?<path>\/.*)$/su.exec(text.slice(vm.length))?.groups
  if (vm === '' || !found?.path)
    throw new LifeboatError('usage', `'${text}' names no file of a VM`, {
      hint: 'Write VM:/path, or VM/DISK/p2:/path; all points of the VM are looked into.',
    })
  return { vm, path: found.path, ...(found.words === undefined ? {} : { words: found.words }) }
}
