/**
 * Restores nodes of a tree into a folder of this host. Nothing ever lands outside of it, whatever the tree says: each name is
 * checked, each directory is opened below the one above it, links are made and never followed, and all of it appears in its
 * place only when it is complete. Run again after an interruption it goes on where it stopped.
 */
import { chmod, type FileHandle, lstat, mkdir } from 'node:fs/promises'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { forEachLimited } from '../core/scope.ts'
import type { Copied, CopyOptions } from './copied.ts'
import { type Copying, copyNode, readXattrs, tellOrThrow } from './copy-node.ts'
import type { DirectoryNode } from './file-tree.ts'
import { encodeName, isName } from './name.ts'
import { outputError, systemCode } from './output-errors.ts'
import { problemList } from './problems.ts'
import { outputExists, publish } from './publish.ts'
import { readBuffers } from './read-buffers.ts'
import { setAttributes } from './set-attributes.ts'
import { openFolder, openStaging, pathIn } from './staging.ts'
import { type PlacedNode, walk } from './walk.ts'

export interface CopyOutOptions extends CopyOptions {
  /** What is restored: another run with the same key into the same target goes on with what this one leaves. */
  readonly resumeKey: string
  /** Files that are in the target may be replaced; directories are merged. */
  readonly force?: boolean
}

/** A directory that is being filled. Its attributes come last: its times change with what is put in, and it may be read-only. */
interface OpenFolder {
  readonly path: readonly string[]
  readonly handle: FileHandle
  readonly isFresh: boolean
  readonly above: OpenFolder | undefined
  /** None of a folder that stands only for a part of a source's path. */
  readonly node: DirectoryNode | undefined
  /** What in it is not done yet, and 1 until its list is at its end. */
  pending: number
}

type Step = (signal: AbortSignal) => Promise<void>

/**
 * Each source is restored at its path in `target`, with all below it; folders on the way there are made. A directory with the
 * path [] stands for what is in it. Throws 'output-exists', 'output-failed', 'disk-full', and what the tree's store throws;
 * what is wrong with one file is among the problems.
 */
export async function copyOut(
  sources: Iterable<PlacedNode> | AsyncIterable<PlacedNode>,
  target: string,
  options: CopyOutOptions,
): Promise<Copied> {
  const { signal, force = false, setuid = false, devices = false } = options
  await using staging = await openStaging(target, options.resumeKey)
  const counts = { files: 0, directories: 0, others: 0, hardLinks: 0, bytes: 0, resumed: 0 }
  const problems = problemList()
  const copying: Copying = {
    staging,
    rules: { setuid, devices },
    problems,
    counts,
    buffers: readBuffers(limits.copyReadsInFlight, limits.copyReadBytes),
    firstNames: new Map(),
    progress: () => options.onProgress?.(counts),
  }
  const folders = new Set<FileHandle>()
  try {
    const steps = stepsOf(copying, sources, { force, signal, folders })
    await forEachLimited(steps, limits.copyFilesInFlight, (step, signal) => step(signal), { signal })
    await publish(staging.tree, staging.target, { force, problems, signal })
    await staging.remove()
    return { ...counts, problems }
  } catch (error) {
    // That it cannot be removed says nothing that the error does not.
    await staging.removeIfEmpty().catch(() => {})
    throw outputError(error, target)
  } finally {
    await Promise.all([...folders].map(handle => handle.close()))
  }
}

interface Where {
  readonly force: boolean
  readonly signal: AbortSignal | undefined
  /** Open ones, for whoever has to give up. */
  readonly folders: Set<FileHandle>
}

/** Folders are made on the way; each other node is a step, which may run beside the next ones. */
async function* stepsOf(
  copying: Copying,
  sources: Iterable<PlacedNode> | AsyncIterable<PlacedNode>,
  where: Where,
): AsyncGenerator<Step> {
  const root: OpenFolder = {
    path: [],
    handle: copying.staging.tree,
    isFresh: !copying.staging.isResumed,
    above: undefined,
    node: undefined,
    pending: 1,
  }
  const onTheWay = new Map<string, OpenFolder>()
  for await (const source of sources) {
    if (!source.path.every(isName) || (source.path.length === 0 && source.node.kind !== 'directory'))
      throw new LifeboatError('usage', `'${source.path.join('/')}' cannot be a place in a folder`)
    try {
      const above = await folderOnTheWay(copying, source.path.slice(0, -1), root, onTheWay, where)
      yield* stepsBelow(copying, source, above, where)
    } catch (error) {
      tellOrThrow(copying, source.path, error)
    }
  }
  for (const folder of [...onTheWay.values()].reverse()) yield () => settle(copying, folder, where)
}

async function* stepsBelow(
  copying: Copying,
  source: PlacedNode,
  above: OpenFolder,
  where: Where,
): AsyncGenerator<Step> {
  /** Undefined: it could not be made, and nothing in it is restored. */
  const stack: (OpenFolder | undefined)[] = [above]
  for await (const event of walk(source, where)) {
    const parent = stack.at(-1)
    const { path } = event
    if (event.kind === 'problem') {
      if (parent !== undefined)
        copying.problems.add(
          path,
          event.what,
          event.reason,
          isLifeboatError(event.error) ? event.error.code : undefined,
        )
    } else if (event.kind === 'left') {
      stack.pop()
      if (parent !== undefined && path.length > 0) yield () => settle(copying, parent, where)
    } else if (path.length === 0) stack.push(above)
    else if (event.node.kind === 'directory')
      stack.push(parent && (await enter(copying, parent, path, event.node, where)))
    else if (parent !== undefined) {
      const { node } = event
      await checkFree(copying, parent, path.at(-1)!, where)
      parent.pending += 1
      const place = { folder: parent.handle, isFresh: parent.isFresh, name: path.at(-1)!, path }
      yield async signal => {
        await copyNode(copying, place, node, { signal })
        await settle(copying, parent, where)
      }
    }
  }
}

/** What would be in the way at the end is told at the beginning. */
async function checkFree({ staging }: Copying, parent: OpenFolder, name: string, { force }: Where): Promise<void> {
  if (parent.path.length > 0 || force) return
  const there = await lstat(pathIn(staging.target, encodeName(name))).catch(() => undefined)
  if (there !== undefined) throw outputExists(name)
}

async function enter(
  copying: Copying,
  parent: OpenFolder,
  path: readonly string[],
  node: DirectoryNode,
  where: Where,
): Promise<OpenFolder | undefined> {
  await checkFree(copying, parent, path.at(-1)!, where)
  try {
    const { handle, isFresh } = await makeFolder(parent, path.at(-1)!, where)
    parent.pending += 1
    return { path, handle, isFresh, above: parent, node, pending: 1 }
  } catch (error) {
    tellOrThrow(copying, path, error)
    return undefined
  }
}

/** One of an earlier run is gone on with; in a folder of this run it is another name that is the same here. */
async function makeFolder(parent: OpenFolder, name: string, { folders }: Where) {
  const path = pathIn(parent.handle, encodeName(name))
  let isFresh = true
  try {
    await mkdir(path, { mode: 0o700 })
  } catch (error) {
    if (parent.isFresh || systemCode(error) !== 'EEXIST') throw error
    isFresh = false
    if ((await lstat(path)).isDirectory()) await chmod(path, 0o700)
  }
  const handle = await openFolder(path)
  folders.add(handle)
  return { handle, isFresh }
}

async function folderOnTheWay(
  copying: Copying,
  path: readonly string[],
  root: OpenFolder,
  onTheWay: Map<string, OpenFolder>,
  where: Where,
): Promise<OpenFolder> {
  let here = root
  for (const [index, name] of path.entries()) {
    const below = path.slice(0, index + 1)
    const key = below.join('/')
    let folder = onTheWay.get(key)
    if (folder === undefined) {
      await checkFree(copying, here, name, where)
      folder = { ...(await makeFolder(here, name, where)), path: below, above: here, node: undefined, pending: 1 }
      here.pending += 1
      onTheWay.set(key, folder)
    }
    here = folder
  }
  return here
}

/** One thing in it is done. The last one closes it, and is one thing less in the folder above. */
async function settle(copying: Copying, folder: OpenFolder, where: Where): Promise<void> {
  folder.pending -= 1
  if (folder.pending > 0 || folder.above === undefined) return
  const { node, path, handle } = folder
  const here = pathIn(handle, '.')
  if (node === undefined) await chmod(here, 0o755)
  else {
    copying.counts.directories += 1
    const xattrs = await readXattrs(copying, path, node, where)
    await setAttributes(here, node.attributes(), xattrs, copying.rules, (kind, reason) =>
      copying.problems.add(path, kind, reason),
    )
  }
  where.folders.delete(handle)
  await handle.close()
  copying.progress()
  await settle(copying, folder.above, where)
}
