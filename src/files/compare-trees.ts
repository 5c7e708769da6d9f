/** What differs between two trees, from their attributes, and from their contents where that is asked for. */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { ahead } from './ahead.ts'
import type { Attributes, DirectoryNode, FileNode, SymlinkNode, TreeNode } from './file-tree.ts'
import { isOfOneFile } from './problems.ts'

export type Difference = 'kind' | 'size' | 'modified' | 'mode' | 'owner' | 'target' | 'device' | 'xattrs' | 'contents'

export interface TreeChange {
  /** 'unread': a filesystem is damaged there, so that nothing can be said of it or of what is in it. */
  readonly change: 'added' | 'removed' | 'changed' | 'unread'
  /** From what was compared on; '' is that itself. */
  readonly path: string
  readonly before?: TreeNode
  readonly after?: TreeNode
  /** Of 'changed': at least one. Of a directory its own, not what is in it. */
  readonly what: readonly Difference[]
  readonly problem?: Error
}

export interface CompareOptions extends AbortOptions {
  /** Files of one size are read and compared, whatever their times say. */
  readonly contents?: boolean
}

/** One name of two directories, or the two things that are compared. */
interface Pair {
  readonly path: string
  readonly before?: TreeNode
  readonly after?: TreeNode
  readonly above?: Pair
}

/** Depth first, names of a directory in the order of their text. Of what only one side has, all that is in it is told. */
export async function* compareTrees(pair: Pair, options: CompareOptions = {}): AsyncGenerator<TreeChange> {
  yield* compared(await looked(pair, options), options)
}

/** What is known of a pair before its turn: the change, and the pairs that are in it. */
interface Looked {
  readonly change: TreeChange | undefined
  readonly inside: readonly Pair[]
}

async function* compared({ change, inside }: Looked, options: CompareOptions): AsyncGenerator<TreeChange> {
  if (change) yield change
  const look = (pair: Pair, signal: AbortSignal) => looked(pair, { ...options, signal })
  for await (const next of ahead(inside, limits.directoriesAhead, look, options)) yield* compared(next, options)
}

async function looked(pair: Pair, options: CompareOptions): Promise<Looked> {
  try {
    const [change, inside] = await Promise.all([changeOf(pair, options), pairsIn(pair, options)])
    return { change, inside }
  } catch (problem) {
    if (!isOfOneFile(problem) || !(problem instanceof Error)) throw problem
    const { path, before, after } = pair
    return { change: { change: 'unread', path, before, after, what: [], problem }, inside: [] }
  }
}

async function pairsIn(pair: Pair, options: AbortOptions): Promise<readonly Pair[]> {
  refuseLoop(pair)
  const { path, before, after } = pair
  const [left, right] = await Promise.all([entriesOf(before, options), entriesOf(after, options)])
  const names = [...new Set([...left.keys(), ...right.keys()])].sort()
  return names.map(name => ({
    path: `${path}/${name}`,
    before: left.get(name),
    after: right.get(name),
    above: pair,
  }))
}

/** A directory that is in itself: of a damaged filesystem, or one made to keep its readers busy. */
function refuseLoop(pair: Pair): void {
  for (let above = pair.above; above !== undefined; above = above.above)
    if (isSameNode(pair.before, above.before) || isSameNode(pair.after, above.after))
      throw new LifeboatError('guest-filesystem', `${pair.path} is a directory that is in itself`)
}

const isSameNode = (a: TreeNode | undefined, b: TreeNode | undefined): boolean =>
  a?.kind === 'directory' && b !== undefined && a.tree === b.tree && a.attributes().inode === b.attributes().inode

const NOTHING: ReadonlyMap<string, TreeNode> = new Map()

async function entriesOf(node: TreeNode | undefined, options: AbortOptions): Promise<ReadonlyMap<string, TreeNode>> {
  return node?.kind === 'directory' ? new Map(await namesAndNodes(node, options)) : NOTHING
}

async function namesAndNodes(node: DirectoryNode, options: AbortOptions): Promise<[string, TreeNode][]> {
  const found: [string, TreeNode][] = []
  for await (const batch of node.list(options)) for (const entry of batch) found.push([entry.name, entry.node])
  return found
}

async function changeOf({ path, before, after }: Pair, options: CompareOptions): Promise<TreeChange | undefined> {
  if (before && after) {
    const what = await differences(before, after, options)
    return what.length > 0 ? { change: 'changed', path, before, after, what } : undefined
  }
  return before ? { change: 'removed', path, before, what: [] } : { change: 'added', path, after, what: [] }
}

async function differences(before: TreeNode, after: TreeNode, options: CompareOptions): Promise<readonly Difference[]> {
  if (before.kind !== after.kind) return ['kind']
  const [a, b] = [before.attributes(), after.attributes()]
  const what = ofAttributes(a, b)
  // Neither its contents nor what is beside them can change without its time of change, unless somebody meddles with the disk.
  const isUntouched = a.changedNs === b.changedNs && a.inode === b.inode && what.length === 0
  if (before.kind === 'symlink' && after.kind === 'symlink' && !isUntouched)
    if (await targetsDiffer(before, after, options)) what.push('target')
  if (!isUntouched && (await xattrsDiffer(before, after, options))) what.push('xattrs')
  if (options.contents && before.kind === 'file' && after.kind === 'file' && a.size === b.size && a.size > 0)
    if (await contentsDiffer(before, after, options)) what.push('contents')
  return what
}

function ofAttributes(a: Attributes, b: Attributes): Difference[] {
  const what: Difference[] = []
  const hasContents = a.kind === 'file' || a.kind === 'symlink'
  if (hasContents && a.size !== b.size) what.push('size')
  // A directory's follows from what was added and removed in it.
  if (a.kind !== 'directory' && a.modifiedNs !== b.modifiedNs) what.push('modified')
  if (a.permissions !== b.permissions) what.push('mode')
  if (a.uid !== b.uid || a.gid !== b.gid) what.push('owner')
  if (a.device?.major !== b.device?.major || a.device?.minor !== b.device?.minor) what.push('device')
  return what
}

async function targetsDiffer(before: SymlinkNode, after: SymlinkNode, options: AbortOptions): Promise<boolean> {
  const [a, b] = await Promise.all([before.readLink(options), after.readLink(options)])
  return a !== b
}

async function xattrsDiffer(before: TreeNode, after: TreeNode, options: AbortOptions): Promise<boolean> {
  const [a, b] = await Promise.all([before.xattrs(options), after.xattrs(options)])
  return a.size !== b.size || [...a].some(([name, value]) => !isSame(value, b.get(name)))
}

const isSame = (a: Uint8Array, b: Uint8Array | undefined): boolean => b !== undefined && Buffer.compare(a, b) === 0

const PIECE = 1 << 20

/** Of files of one size. */
async function contentsDiffer(before: FileNode, after: FileNode, options: AbortOptions): Promise<boolean> {
  await using a = await before.open(options)
  await using b = await after.open(options)
  const [left, right] = [Buffer.allocUnsafe(PIECE), Buffer.allocUnsafe(PIECE)]
  for (let offset = 0; offset < a.size; offset += PIECE) {
    const length = Math.min(PIECE, a.size - offset)
    const [mine, theirs] = [left.subarray(0, length), right.subarray(0, length)]
    await Promise.all([a.readInto(mine, offset, options), b.readInto(theirs, offset, options)])
    if (Buffer.compare(mine, theirs) !== 0) return true
  }
  return false
}
