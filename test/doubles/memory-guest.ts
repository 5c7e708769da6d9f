/** Guests whose disks name what is on them: 'lifeboat-guest NAME' at their beginning, and trees in memory for each name. */
import { isLifeboatError, LifeboatError } from '../../src/core/errors.ts'
import type { FileTree } from '../../src/files/file-tree.ts'
import { type Described, memoryTree } from '../../src/files/memory-tree.ts'
import type { GuestFilesystems, OpenGuest, Volume } from '../../src/guest/guest-filesystems.ts'

export interface MemoryVolume extends Partial<Volume> {
  readonly name: string
  readonly entries?: Readonly<Record<string, Described>>
  /** Locked until this key is given. */
  readonly key?: string
}

export interface MemoryGuests {
  readonly open: OpenGuest
  /** What was asked of it, in order: 'open vda', 'volumes', 'unlock vda-p1', 'tree vda-p1', 'close'. */
  readonly asked: string[]
}

/** A disk's first bytes: what they say is on it, is. */
export const guestDisk = (name: string, size = 4096): Buffer => {
  const bytes = Buffer.alloc(size)
  bytes.write(`${MARK}${name}\n`)
  return bytes
}

const MARK = 'lifeboat-guest '

/** By the name that the first disk says. */
export function memoryGuests(
  known: Readonly<Record<string, readonly MemoryVolume[] | LifeboatError>>,
  wrap: (tree: FileTree, volume: string) => FileTree = tree => tree,
): MemoryGuests {
  const asked: string[] = []
  let opened = 0
  const open: OpenGuest = async disks => {
    asked.push(`open ${disks.map(({ name }) => name).join(' ')}`)
    const first = new Uint8Array(Math.min(256, disks[0]?.image.size ?? 0))
    await disks[0]?.image.readInto(first, 0)
    const text = Buffer.from(first).toString('latin1')
    const name = text.startsWith(MARK) ? text.slice(MARK.length, text.indexOf('\n')) : ''
    const held = known[name] ?? []
    if (isLifeboatError(held)) throw held
    return guestOf(held as readonly MemoryVolume[], `${++opened}`, asked, wrap)
  }
  return { open, asked }
}

function guestOf(
  held: readonly MemoryVolume[],
  number: string,
  asked: string[],
  wrap: (tree: FileTree, volume: string) => FileTree,
): GuestFilesystems {
  const unlocked = new Set<string>()
  const trees = new Map<string, FileTree>()
  const volumeOf = ({ entries, key, ...volume }: MemoryVolume): Volume => {
    const isLocked = key !== undefined && !unlocked.has(volume.name)
    const state = volume.state ?? (isLocked ? 'locked' : 'readable')
    return { type: 'ext4', sizeBytes: 1 << 20, ...volume, state }
  }
  return {
    async volumes() {
      asked.push('volumes')
      return held.map(volumeOf)
    },
    async unlock(name, key) {
      asked.push(`unlock ${name}`)
      if (held.find(volume => volume.name === name)?.key !== Buffer.from(key).toString())
        throw new LifeboatError('wrong-guest-key', `the key does not fit volume ${name}`)
      unlocked.add(name)
    },
    async open(name) {
      asked.push(`tree ${name}`)
      const volume = held.find(one => one.name === name)
      if (!volume || volumeOf(volume).state !== 'readable')
        throw new LifeboatError('guest-filesystem', `${name} cannot be opened`)
      const known = trees.get(name) ?? wrap(memoryTree(volume.entries ?? {}, { tree: `${number}/${name}` }), name)
      trees.set(name, known)
      return known
    },
    async [Symbol.asyncDispose]() {
      asked.push('close')
    },
  }
}
