/**
 * A listing of a directory tree in the order of whole keys. A folder sorts as its name with the '/' that follows it in
 * every key below ('a-b' before 'a/b' before 'a0'), then each level can be walked on its own. Memory is bounded: of a folder
 * with more names than `limits.folderPageNames` the smallest are taken, and it is scanned again for the next ones.
 */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileKind, Files } from './files.ts'
import { isAbsent } from './filesystem-errors.ts'
import { compareKeys } from './key-order.ts'
import type { ObjectInfo } from './object-store.ts'

export const TEMPORARY = '.tmp-'

export interface Walk extends AbortOptions {
  readonly root: string
  readonly files: Files
  readonly prefix: string
  readonly startAfter: string
  readonly pageNames: number
}

interface Entry {
  /** The whole key; of a folder with the '/' at its end. */
  readonly key: string
  readonly kind: 'file' | 'folder'
}

/** Objects below `folder`, a key prefix that is '' or ends in '/'. A folder that is not there holds nothing. */
export async function* walkFolder(walk: Walk, folder: string): AsyncGenerator<ObjectInfo> {
  let after = ''
  for (;;) {
    const page = await nextEntries(walk, folder, after)
    yield* walkEntries(walk, page)
    if (page.length < walk.pageNames) return
    after = page.at(-1)!.key
  }
}

async function* walkEntries(walk: Walk, entries: readonly Entry[]): AsyncGenerator<ObjectInfo> {
  let files: Entry[] = []
  for (const entry of entries) {
    if (entry.kind === 'file') files.push(entry)
    if (entry.kind === 'folder' || files.length >= limits.fileCallsInFlight) {
      yield* await describe(walk, files)
      files = []
    }
    if (entry.kind === 'folder') yield* walkFolder(walk, entry.key)
  }
  yield* await describe(walk, files)
}

/** Sizes and times of a few files at once; one that was removed since the scan is left out. */
async function describe(walk: Walk, entries: readonly Entry[]): Promise<ObjectInfo[]> {
  walk.signal?.throwIfAborted()
  const found = await Promise.all(
    entries.map(async ({ key }) => {
      try {
        const { size, modifiedAt } = await walk.files.linkStatus(`${walk.root}/${key}`)
        return { key, size, modifiedAt }
      } catch (error) {
        if (isAbsent(error)) return undefined
        throw error
      }
    }),
  )
  return found.filter(info => info !== undefined)
}

/** The smallest entries after `after` in order, at most `pageNames`. Fewer mean that there are no more. */
async function nextEntries(walk: Walk, folder: string, after: string): Promise<Entry[]> {
  const { pageNames } = walk
  let smallest: Entry[] = []
  let bound: string | undefined
  const keepSmallest = () => {
    smallest = smallest.sort((a, b) => compareKeys(a.key, b.key)).slice(0, pageNames)
    if (smallest.length === pageNames) bound = smallest.at(-1)!.key
  }
  for await (const entry of wantedEntries(walk, folder)) {
    if (after !== '' && compareKeys(entry.key, after) <= 0) continue
    if (bound !== undefined && compareKeys(entry.key, bound) > 0) continue
    smallest.push(entry)
    if (smallest.length >= 2 * pageNames) keepSmallest()
  }
  keepSmallest()
  return smallest
}

/** The entries of one folder, unordered, that are objects of this listing or may hold some. */
async function* wantedEntries(walk: Walk, folder: string): AsyncGenerator<Entry> {
  try {
    for await (const { name, kind } of walk.files.entries(`${walk.root}/${folder}`)) {
      walk.signal?.throwIfAborted()
      if (name.startsWith(TEMPORARY)) continue
      const key = folder + name
      if (!key.startsWith(walk.prefix) && !walk.prefix.startsWith(`${key}/`)) continue
      const known = kind === 'unknown' ? await kindOf(walk, key) : kind
      if (known === 'other') throw notAnObject(`${walk.root}/${key}`)
      if (known === 'folder' && mayHold(walk, `${key}/`)) yield { key: `${key}/`, kind: 'folder' }
      if (known === 'file' && isWanted(walk, key)) yield { key, kind: 'file' }
    }
  } catch (error) {
    if (!isAbsent(error)) throw error
  }
}

const isWanted = (walk: Walk, key: string): boolean =>
  key.startsWith(walk.prefix) && (walk.startAfter === '' || compareKeys(key, walk.startAfter) > 0)

const mayHold = (walk: Walk, folder: string): boolean =>
  (folder.startsWith(walk.prefix) || walk.prefix.startsWith(folder)) &&
  (walk.startAfter.startsWith(folder) || compareKeys(folder, walk.startAfter) > 0)

async function kindOf(walk: Walk, key: string): Promise<FileKind | undefined> {
  try {
    return (await walk.files.linkStatus(`${walk.root}/${key}`)).kind
  } catch (error) {
    if (isAbsent(error)) return undefined
    throw error
  }
}

/** Left out, a link to a folder full of packs would look like a repository without them. */
const notAnObject = (path: string): LifeboatError =>
  new LifeboatError('store-failed', `${path} is neither a file nor a folder, so the listing cannot be complete`, {
    details: { path },
    hint: 'Lifeboat follows no symbolic links inside a repository. Replace it by what it points to, or move it away.',
  })
