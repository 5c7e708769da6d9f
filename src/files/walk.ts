/**
 * Everything below a node, in the order of its lists: a directory, what is in it, then that it is left. Directories ahead are listed
 * meanwhile. What a hostile tree may hold (loops, depth without end, names that are none or come twice) is told and not followed.
 */
import { messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, Entry, TreeNode } from './file-tree.ts'
import { beginBelow, endBelow, type ListedBatch, Listing, type Listings } from './listing.ts'
import { isName } from './name.ts'
import { isOfOneFile } from './problems.ts'

/** A node and where it is, or where it goes: names from some root on. */
export interface PlacedNode {
  readonly path: readonly string[]
  readonly node: TreeNode
}

export type WalkEvent =
  | { readonly kind: 'entry'; readonly path: readonly string[]; readonly node: TreeNode }
  /** All of it was told. Comes for each directory that was an entry, entered or not. */
  | { readonly kind: 'left'; readonly path: readonly string[]; readonly node: DirectoryNode }
  /** What is there is not told: refused for what it is, or unreadable. */
  | {
      readonly kind: 'problem'
      readonly path: readonly string[]
      readonly what: 'refused' | 'unreadable'
      readonly reason: string
      readonly error?: unknown
    }

export interface WalkOptions extends AbortOptions {
  /** Of each directory below the start: whether to look inside. All, where it is left out. */
  readonly enters?: (path: readonly string[], node: DirectoryNode) => boolean
}

interface Level {
  readonly path: readonly string[]
  readonly node: DirectoryNode
  readonly identity: string
  /** Undefined: it is not to be entered. */
  readonly listing: Listing | undefined
  readonly names: Set<string>
  /** What was read of its list, and how far it was told. */
  batch: ListedBatch
  at: number
}

const NO_BATCH: ListedBatch = { entries: [], begun: new Map(), ahead: 0 }

export async function* walk(start: PlacedNode, options: WalkOptions = {}): AsyncGenerator<WalkEvent> {
  const { signal, enters = () => true } = options
  const listings: Listings = { entries: 0, running: 0, signal, enters }
  const levels: Level[] = []
  let told = 0
  try {
    yield { kind: 'entry', ...start }
    if (start.node.kind !== 'directory') return
    levels.push(levelOf(start.path, start.node, new Listing(start.path, start.node, listings, 0)))
    for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
      signal?.throwIfAborted()
      let entry: Entry | undefined
      try {
        entry = level.batch.entries[level.at] ?? (await nextEntry(level))
      } catch (error) {
        if (!isOfOneFile(error)) throw error
        yield { kind: 'problem', path: level.path, what: 'unreadable', reason: messageOf(error), error }
      }
      if (entry === undefined) {
        levels.pop()
        await endLevel(level)
        yield { kind: 'left', path: level.path, node: level.node }
        continue
      }
      const position = level.at++
      const { batch } = level
      batch.ahead = Math.max(batch.ahead, position)
      beginBelow(batch, level.path, listings, 1)
      const begun = batch.begun.get(position)
      batch.begun.delete(position)
      const path = [...level.path, entry.name]
      const { node } = entry
      told += 1
      const refusal =
        told > limits.walkEntriesMax
          ? `more than ${limits.walkEntriesMax} files`
          : refusalOf(entry, level, levels, node.kind === 'directory')
      if (refusal !== undefined) {
        await begun?.[Symbol.asyncDispose]()
        yield { kind: 'problem', path, what: 'refused', reason: refusal }
        if (told > limits.walkEntriesMax) return
        continue
      }
      if (node.kind === 'directory') {
        begun?.approach(0)
        const listing = begun ?? (enters(path, node) ? new Listing(path, node, listings, 0) : undefined)
        levels.push(levelOf(path, node, listing))
      }
      yield { kind: 'entry', path, node }
    }
  } finally {
    await Promise.all(levels.map(endLevel))
  }
}

const identityOf = (node: DirectoryNode): string => `${node.tree}\0${node.attributes().inode}`

const levelOf = (path: readonly string[], node: DirectoryNode, listing: Listing | undefined): Level => ({
  path,
  node,
  identity: identityOf(node),
  listing,
  names: new Set(),
  batch: NO_BATCH,
  at: 0,
})

/** Reads on: the batch is at its end. */
async function nextEntry(level: Level): Promise<Entry | undefined> {
  for (;;) {
    const batch = await level.listing?.next()
    if (batch === undefined) return undefined
    level.batch = batch
    level.at = 0
    if (batch.entries[0] !== undefined) return batch.entries[0]
  }
}

function refusalOf({ name, node }: Entry, level: Level, levels: readonly Level[], isDirectory: boolean) {
  if (!isName(name)) return 'this cannot be the name of a file'
  if (level.names.has(name)) return 'the directory has this name twice'
  if (level.names.size >= limits.walkNamesMax) return `the directory has more than ${limits.walkNamesMax} names`
  level.names.add(name)
  if (!isDirectory || node.kind !== 'directory') return undefined
  if (levels.length >= limits.walkDepthMax) return `it lies more than ${limits.walkDepthMax} directories deep`
  const identity = identityOf(node)
  if (levels.some(above => above.identity === identity)) return 'the directory contains itself'
  return undefined
}

async function endLevel(level: Level): Promise<void> {
  await level.listing?.[Symbol.asyncDispose]()
  await endBelow(level.batch)
}
