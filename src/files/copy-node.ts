/** One node that is no directory becomes a file of this host: made apart, with all its attributes, and only then given its name. */
import { createHash } from 'node:crypto'
import { type BigIntStats, constants } from 'node:fs'
import { type FileHandle, link, lstat, open, readlink, rename, symlink, unlink } from 'node:fs/promises'
import type { BlockReader } from '../block/block-device.ts'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { makeSpecial, renameToNew } from '../native/file-attributes.ts'
import { type Part, placeFile } from '../native/place-file.ts'
import type { CopyCounts } from './copied.ts'
import { dataExtents, piecesOf } from './data-extents.ts'
import type { FileNode, SpecialNode, SymlinkNode, TreeNode } from './file-tree.ts'
import { encodeName } from './name.ts'
import { isRefusalOfOneFile, systemCode } from './output-errors.ts'
import { isOfOneFile, type ProblemList } from './problems.ts'
import type { ReadBuffers } from './read-buffers.ts'
import { type AttributeRules, attributesToGive, isId, type Report, setAttributes } from './set-attributes.ts'
import { pathIn, type Staging } from './staging.ts'

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants

/** One restore: where to, by which rules, and what it has done. */
export interface Copying {
  readonly staging: Staging
  readonly rules: AttributeRules & { readonly devices: boolean }
  readonly problems: ProblemList
  readonly counts: { -readonly [K in keyof CopyCounts]: CopyCounts[K] }
  readonly buffers: ReadBuffers
  /** Files with several names, by their key in `links/`, whose first name is being made. */
  readonly firstNames: Map<string, Promise<void>>
  progress(): void
}

export interface Place {
  readonly folder: FileHandle
  /** Made by this run: what is in it already came under an equal name. */
  readonly isFresh: boolean
  readonly name: string
  /** For people. */
  readonly path: readonly string[]
}

type PlainNode = FileNode | SymlinkNode | SpecialNode

/** What one file cannot be, is among the problems; what nothing could be any more (no space, the store away) is thrown. */
export async function copyNode(copying: Copying, place: Place, node: PlainNode, options: AbortOptions): Promise<void> {
  try {
    if (node.kind === 'file' && node.attributes().links > 1) await copyLinked(copying, place, node, options)
    else await copyAlone(copying, place, node, options)
  } catch (error) {
    tellOrThrow(copying, place.path, error)
  }
  copying.progress()
}

export function tellOrThrow({ problems }: Pick<Copying, 'problems'>, path: readonly string[], error: unknown): void {
  const code = isLifeboatError(error) ? error.code : undefined
  if (isOfOneFile(error)) problems.add(path, 'unreadable', messageOf(error), code)
  else if (isRefusalOfOneFile(error)) problems.add(path, 'refused', `${systemCode(error)}`)
  else if (error instanceof Refused) problems.add(path, 'refused', error.message)
  else throw error
}

/** Of one node, for what it is. */
class Refused extends Error {}

async function copyAlone(copying: Copying, place: Place, node: PlainNode, options: AbortOptions): Promise<void> {
  if (!place.isFresh && (await isThere(copying, place, node, options))) return
  const to = { path: pathIn(place.folder, encodeName(place.name)), replaces: !place.isFresh }
  const made = await makePart(copying, place, node, to, options)
  if (made === undefined) return
  try {
    if (!made.isPlaced) await givePlace(made.part, to)
  } catch (error) {
    await unlink(made.part)
    throw error
  }
  if (node.kind === 'file') copying.counts.files += 1
  else copying.counts.others += 1
}

/** In `links/` it has a name of its own, under which also a later run finds it. */
async function copyLinked(copying: Copying, place: Place, node: FileNode, options: AbortOptions): Promise<void> {
  const { inode } = node.attributes()
  const key = createHash('sha256').update(`${node.tree}\0${inode}`).digest('hex').slice(0, 40)
  const first = pathIn(copying.staging.links, key)
  const known = copying.firstNames.get(key)
  const made = known ?? makeFirst(copying, place, node, first, options)
  if (known === undefined) remember(copying.firstNames, key, made)
  await made
  try {
    if (place.isFresh) await link(first, pathIn(place.folder, encodeName(place.name)))
    else await replaceByLink(first, pathIn(place.folder, encodeName(place.name)))
    if (known !== undefined) copying.counts.hardLinks += 1
  } catch (error) {
    if (systemCode(error) === 'EEXIST') throw collides()
    copying.problems.add(place.path, 'not-set', `hard link, it is a copy: ${systemCode(error)}`)
    await copyAlone(copying, place, node, options)
  }
}

function remember(names: Map<string, Promise<void>>, key: string, made: Promise<void>): void {
  // Each name that waits for it is told of what it lacks; later ones try again.
  made.catch(() => names.delete(key))
  names.set(key, made)
  const oldest = names.keys().next().value
  if (names.size > limits.linkedFilesRemembered && oldest !== undefined) names.delete(oldest)
}

async function makeFirst(copying: Copying, place: Place, node: FileNode, first: Buffer, options: AbortOptions) {
  if (await isComplete(first, node, options)) {
    await dress(copying, place, first, node, await readXattrs(copying, place.path, node, options))
    copying.counts.resumed += 1
    return
  }
  const made = await makePart(copying, place, node, { path: first, replaces: true }, options)
  if (made === undefined) return
  if (!made.isPlaced) await rename(made.part, first)
  copying.counts.files += 1
}

async function replaceByLink(first: Buffer, path: Buffer): Promise<void> {
  await unlink(path).catch(error => {
    if (systemCode(error) !== 'ENOENT') throw error
  })
  await link(first, path)
}

/** Of an earlier run, and complete. Its attributes are set again, so that what cannot be set is told again. */
async function isThere(copying: Copying, place: Place, node: PlainNode, options: AbortOptions): Promise<boolean> {
  const path = pathIn(place.folder, encodeName(place.name))
  if (!(await isComplete(path, node, options))) return false
  await dress(copying, place, path, node, await readXattrs(copying, place.path, node, options))
  copying.counts.resumed += 1
  return true
}

async function isComplete(path: Buffer, node: PlainNode, options: AbortOptions): Promise<boolean> {
  const stat: BigIntStats | undefined = await lstat(path, { bigint: true }).catch(() => undefined)
  if (node.kind === 'symlink' && stat?.isSymbolicLink())
    return (await readlink(path, { encoding: 'buffer' })).equals(encodeName(await node.readLink(options)))
  if (node.kind !== 'file' || !stat?.isFile()) return false
  const { size, modifiedNs } = node.attributes()
  return stat.size === BigInt(size) && stat.mtimeNs === modifiedNs
}

/** Where what is made goes. */
interface Goal {
  readonly path: Buffer
  readonly replaces: boolean
}

/** Undefined: left out, and told. A file mostly has its place already. */
async function makePart(
  copying: Copying,
  place: Place,
  node: PlainNode,
  goal: Goal,
  options: AbortOptions,
): Promise<{ readonly part: Buffer; readonly isPlaced: boolean } | undefined> {
  const isDevice = node.kind === 'character-device' || node.kind === 'block-device'
  if (isDevice && !copying.rules.devices) {
    copying.problems.add(place.path, 'left-out', 'device node')
    return undefined
  }
  const part = pathIn(copying.staging.parts, `${partNumber++}`)
  // Asked for at once, since it may be a round trip; wanted at the end.
  const xattrs = readXattrs(copying, place.path, node, options)
  xattrs.catch(() => {})
  try {
    if (node.kind === 'file') {
      const isPlaced = await writeFile(copying, { part, place, node, xattrs, goal }, options)
      if (isPlaced) return { part, isPlaced }
    } else if (node.kind === 'symlink') await writeLink(part, await node.readLink(options))
    else await makeSpecial(part, node.kind, deviceOf(node))
    await dress(copying, place, part, node, await xattrs)
    return { part, isPlaced: false }
  } catch (error) {
    await unlink(part).catch(() => {})
    throw error
  }
}

let partNumber = 0

function deviceOf(node: SpecialNode) {
  const { major = 0, minor = 0 } = node.attributes().device ?? {}
  const fits = (number: number) => Number.isInteger(number) && number >= 0 && number < 2 ** 32
  if (!fits(major) || !fits(minor)) throw new Refused(`there is no device ${major}:${minor}`)
  return { major, minor }
}

async function writeLink(path: Buffer, target: string): Promise<void> {
  if (target === '' || target.includes('\0')) throw new Refused('a link cannot lead there')
  await symlink(encodeName(target), path)
}

async function dress(
  copying: Copying,
  place: Place,
  path: Buffer,
  node: TreeNode,
  xattrs: ReadonlyMap<string, Uint8Array>,
): Promise<void> {
  const report = (kind: 'left-out' | 'not-set', reason: string) => copying.problems.add(place.path, kind, reason)
  await setAttributes(path, node.attributes(), xattrs, copying.rules, report)
}

export async function readXattrs(
  { problems }: Pick<Copying, 'problems'>,
  path: readonly string[],
  node: TreeNode,
  options: AbortOptions,
): Promise<ReadonlyMap<string, Uint8Array>> {
  try {
    return await node.xattrs(options)
  } catch (error) {
    if (!isOfOneFile(error)) throw error
    problems.add(path, 'not-set', `attributes: ${messageOf(error)}`, isLifeboatError(error) ? error.code : undefined)
    return new Map()
  }
}

/** A number that JavaScript counts with exactly; what a damaged or hostile disk says beyond that is no file. */
export async function openContents(node: FileNode, options: AbortOptions): Promise<BlockReader> {
  const { size } = node.attributes()
  if (!Number.isSafeInteger(size) || size < 0)
    throw new LifeboatError('guest-filesystem', `a file cannot have ${size} bytes`)
  const reader = await node.open(options)
  if (reader.size === size) return reader
  await reader[Symbol.asyncDispose]()
  throw new LifeboatError('guest-filesystem', `its size is ${size} bytes, its contents have ${reader.size}`)
}

interface Writing {
  readonly part: Buffer
  readonly place: Place
  readonly node: FileNode
  readonly xattrs: Promise<ReadonlyMap<string, Uint8Array>>
  readonly goal: Goal
}

/** Whether it has its attributes and its place as well; else it is a part with nothing but its contents. */
async function writeFile(copying: Copying, writing: Writing, options: AbortOptions): Promise<boolean> {
  const { part, node } = writing
  await using reader = await openContents(node, options)
  const isOrdinary = hasOrdinaryAttributes(node)
  if (isOrdinary && (await isPlain(reader, options))) return await writeSmall(copying, writing, reader, options)
  await using file = await open(part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
  await file.truncate(reader.size)
  await forEachLimited(
    piecesOf(dataExtents(reader, options), limits.copyReadBytes),
    limits.copyReadsPerFile,
    async ({ offset, length }, signal) => {
      await copying.buffers.use(async buffer => {
        const bytes = buffer.subarray(0, length)
        await reader.readInto(bytes, offset, { signal })
        for (let at = 0; at < length; ) at += (await file.write(bytes, at, length - at, offset + at)).bytesWritten
      })
      copying.counts.bytes += length
      copying.progress()
    },
    options,
  )
  return isOrdinary && (await placeWhole(copying, writing, { path: part, file }))
}

/** One read has it, and it has no holes. Asking a small file for them would cost as much as reading it. */
async function isPlain(reader: BlockReader, options: AbortOptions): Promise<boolean> {
  if (reader.size <= limits.copySmallBytes) return true
  if (reader.size > limits.copyReadBytes) return false
  for await (const { length } of dataExtents(reader, options)) return length === reader.size
  return false
}

async function writeSmall(copying: Copying, writing: Writing, reader: BlockReader, options: AbortOptions) {
  return copying.buffers.use(async buffer => {
    const contents = buffer.subarray(0, reader.size)
    await reader.readInto(contents, 0, options)
    const isPlaced = await placeWhole(copying, writing, { path: writing.part, contents })
    copying.counts.bytes += contents.length
    copying.progress()
    return isPlaced
  })
}

/** What a hostile tree says beyond that is told of one by one. */
function hasOrdinaryAttributes(node: FileNode): boolean {
  const { uid, gid, accessedNs, modifiedNs } = node.attributes()
  return isId(uid) && isId(gid) && [accessedNs, modifiedNs].every(time => BigInt.asIntN(64, time) === time)
}

/** As dress() and givePlace() do it, in one call. False where anything of that does not work: they find out what, and tell. */
async function placeWhole(copying: Copying, { place, node, xattrs, goal }: Writing, part: Part): Promise<boolean> {
  const attributes = node.attributes()
  const reports: Parameters<Report>[] = []
  const given = attributesToGive(attributes, await xattrs, copying.rules, true, (...told) => reports.push(told))
  const named = new Map([...given.xattrs].map(([name, value]) => [encodeName(name), value]))
  const failed = await placeFile(part, { ...attributes, mode: given.mode, xattrs: named }, goal.path, goal)
  if (failed?.step === 'contents') throw failed.error
  if (failed !== undefined) return false
  for (const [kind, reason] of reports) copying.problems.add(place.path, kind, reason)
  return true
}

async function givePlace(part: Buffer, { path, replaces }: Goal): Promise<void> {
  if (replaces) return rename(part, path)
  try {
    await renameToNew(part, path)
  } catch (error) {
    if (systemCode(error) === 'EEXIST') throw collides()
    if (systemCode(error) !== 'EINVAL') throw error
    // A filesystem that cannot tell. Nobody else is in this folder.
    if ((await lstat(path).catch(() => undefined)) !== undefined) throw collides()
    await rename(part, path)
  }
}

const collides = (): Refused =>
  new Refused('the target has this name already: names that differ there are the same here')
