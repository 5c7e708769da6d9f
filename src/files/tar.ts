/**
 * Nodes of a tree as a tar: everything that copyOut would restore, in one stream. Whoever extracts it decides what becomes of
 * owners and modes; set-user-id, capabilities and devices are in it only where somebody asked for them.
 */
import type { BlockReader } from '../block/block-device.ts'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { mergeRanges, type Range, totalLength } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import { ahead } from './ahead.ts'
import type { Copied, CopyOptions } from './copied.ts'
import { openContents } from './copy-node.ts'
import { dataExtents, piecesOf } from './data-extents.ts'
import type { FileNode, TreeNode } from './file-tree.ts'
import { encodeName, isName } from './name.ts'
import { isOfOneFile, type ProblemList, problemList } from './problems.ts'
import { attributesToGive } from './set-attributes.ts'
import { padding, sparseMap, TAR_BLOCK, type TarEntry, tarHeader } from './tar-header.ts'
import { type PlacedNode, walk } from './walk.ts'

/** The bytes are the caller's again when it resolves. */
export type WriteBytes = (bytes: Uint8Array) => Promise<void>

/** What is known of a node before its turn: each was a round trip or several. */
interface Prepared extends PlacedNode {
  readonly xattrs: ReadonlyMap<string, Uint8Array>
  readonly target?: string
  readonly contents?: Contents
  /** It cannot be read, which is told when it is its turn. */
  readonly failure?: unknown
}

interface Contents {
  readonly size: number
  /** Where it has data. */
  readonly data: readonly Range[]
  /** All its data, where that is little. */
  readonly bytes?: Buffer
}

interface Taring {
  readonly write: WriteBytes
  readonly options: CopyOptions
  readonly problems: ProblemList
  readonly counts: Record<'files' | 'directories' | 'others' | 'hardLinks' | 'bytes' | 'resumed', number>
  /** The path in the tar of the first name of files with several. */
  readonly firstNames: Map<string, Buffer>
  /** Buffers of large reads, between two of them. */
  readonly free: Buffer[]
}

/**
 * Throws what `write` and the tree's store throw; what is wrong with one file is among the problems. One that cannot be read on in its
 * middle has zeros from there: its size was told before.
 */
export async function writeTar(
  sources: Iterable<PlacedNode> | AsyncIterable<PlacedNode>,
  write: WriteBytes,
  options: CopyOptions = {},
): Promise<Copied> {
  const counts = { files: 0, directories: 0, others: 0, hardLinks: 0, bytes: 0, resumed: 0 }
  const problems = problemList()
  const gathered = gathering(write)
  const taring: Taring = { write: gathered.write, options, problems, counts, firstNames: new Map(), free: [] }
  const nodes = nodesOf(taring, sources)
  const prepared = ahead(nodes, limits.copyFilesInFlight, (node, signal) => prepare(taring, node, { signal }), options)
  for await (const node of prepared) {
    if (node.failure === undefined) await writeNode(taring, node)
    else problems.add(node.path, 'unreadable', messageOf(node.failure), codeOf(node.failure))
    options.onProgress?.(counts)
  }
  await taring.write(Buffer.alloc(2 * TAR_BLOCK))
  await gathered.flush()
  return { ...counts, problems }
}

const codeOf = (error: unknown) => (isLifeboatError(error) ? error.code : undefined)

async function* nodesOf(taring: Taring, sources: Iterable<PlacedNode> | AsyncIterable<PlacedNode>) {
  const places: string[] = []
  for await (const source of sources) {
    const place = source.path.map(name => `${name}/`).join('')
    // Extracting a file below what another source made a link of would follow it.
    if (!source.path.every(isName) || places.some(other => place.startsWith(other) || other.startsWith(place)))
      throw new LifeboatError('usage', `'${place}' cannot be a place in a tar`, {
        hint: 'Get them one by one, or the directory that holds them all.',
      })
    places.push(place)
    for await (const event of walk(source, taring.options)) {
      if (event.kind === 'problem') taring.problems.add(event.path, event.what, event.reason, codeOf(event.error))
      else if (event.kind === 'entry' && isWanted(taring, event)) yield event
    }
  }
}

function isWanted({ options, problems }: Taring, { path, node }: PlacedNode): boolean {
  if (node.kind === 'socket') problems.add(path, 'refused', 'a tar has no sockets')
  else if ((node.kind === 'character-device' || node.kind === 'block-device') && options.devices !== true)
    problems.add(path, 'left-out', 'device node')
  else return true
  return false
}

async function prepare(taring: Taring, { path, node }: PlacedNode, options: AbortOptions): Promise<Prepared> {
  const key = linkKey(node)
  // Its first name may be on its way still, and fail: then its contents are read when it is its turn.
  const isRepeated = key !== undefined && taring.firstNames.has(key)
  if (key !== undefined && !isRepeated && taring.firstNames.size < limits.linkedFilesRemembered)
    taring.firstNames.set(key, NOT_YET)
  try {
    const [xattrs, target, contents] = await Promise.all([
      node.xattrs(options),
      node.kind === 'symlink' ? node.readLink(options) : undefined,
      node.kind === 'file' && !isRepeated ? contentsOf(node, options) : undefined,
    ])
    return { path, node, xattrs, ...(target === undefined ? {} : { target }), ...(contents ? { contents } : {}) }
  } catch (failure) {
    if (!isOfOneFile(failure)) throw failure
    return { path, node, xattrs: new Map(), failure }
  }
}

const NOT_YET = Buffer.alloc(0)

const linkKey = (node: TreeNode): string | undefined =>
  node.kind === 'file' && node.attributes().links > 1 ? `${node.tree}\0${node.attributes().inode}` : undefined

async function contentsOf(node: FileNode, options: AbortOptions): Promise<Contents> {
  await using reader = await openContents(node, options)
  const { size } = reader
  const data = size <= limits.copySmallBytes ? [{ offset: 0, length: size }] : await rangesOf(reader, options)
  const length = totalLength(data)
  if (length > limits.copyReadBytes) return { size, data }
  const bytes = Buffer.allocUnsafeSlow(length)
  let at = 0
  for (const range of data) {
    await reader.readInto(bytes.subarray(at, at + range.length), range.offset, options)
    at += range.length
  }
  return { size, data, bytes }
}

async function rangesOf(reader: BlockReader, options: AbortOptions): Promise<readonly Range[]> {
  let data: Range[] = []
  for await (const range of dataExtents(reader, options)) {
    data.push(range)
    // Small holes become data until it fits.
    for (let gap = 4096; data.length > limits.tarPiecesMax; gap *= 2) data = mergeRanges(data, gap)
  }
  return data
}

async function writeNode(taring: Taring, { path, node, xattrs, target, contents }: Prepared): Promise<void> {
  const { counts, firstNames, problems } = taring
  const attributes = node.attributes()
  const report = (kind: 'left-out' | 'not-set', reason: string) => problems.add(path, kind, reason)
  const name = encodeName(path.length === 0 ? './' : `${path.join('/')}${node.kind === 'directory' ? '/' : ''}`)
  const given = attributesToGive(attributes, xattrs, { setuid: taring.options.setuid ?? false }, true, report)
  const entry = {
    ...given,
    uid: attributes.uid,
    gid: attributes.gid,
    modifiedNs: attributes.modifiedNs,
    path: name,
    size: 0,
  }
  const key = linkKey(node)
  const first = key === undefined ? undefined : firstNames.get(key)
  if (node.kind === 'file' && first !== undefined && first !== NOT_YET) {
    await taring.write(tarHeader({ ...entry, type: 'link', linkPath: first }))
    counts.hardLinks += 1
  } else if (node.kind === 'file') {
    await writeFile(taring, { ...entry, type: 'file' }, node, path, contents)
    if (key !== undefined && first !== undefined) firstNames.set(key, name)
  } else if (node.kind === 'directory') {
    await taring.write(tarHeader({ ...entry, type: 'directory' }))
    counts.directories += 1
  } else {
    if (node.kind === 'socket') return
    if (node.kind === 'symlink' && (target === undefined || target === '' || target.includes('\0')))
      return problems.add(path, 'refused', 'a link cannot lead there')
    const { major = 0, minor = 0 } = attributes.device ?? {}
    if (!isDeviceNumber(major) || !isDeviceNumber(minor))
      return problems.add(path, 'refused', `a tar has no device ${major}:${minor}`)
    const linkPath = target === undefined ? {} : { linkPath: encodeName(target) }
    const device = attributes.device === undefined ? {} : { device: attributes.device }
    await taring.write(tarHeader({ ...entry, ...linkPath, ...device, type: node.kind }))
    counts.others += 1
  }
}

/** What fits into seven octal digits. */
const isDeviceNumber = (number: number): boolean => Number.isInteger(number) && number >= 0 && number <= 0o7777777

async function writeFile(
  taring: Taring,
  entry: TarEntry,
  node: FileNode,
  path: readonly string[],
  known: Contents | undefined,
): Promise<void> {
  const { counts, options, problems, write } = taring
  try {
    const { size, data, bytes } = known ?? (await contentsOf(node, options))
    await using reader = bytes === undefined ? await openContents(node, options) : undefined
    const length = totalLength(data)
    const isSparse = length < size
    const map = isSparse ? sparseMap(data, size) : Buffer.alloc(0)
    await write(tarHeader({ ...entry, size: map.length + length, ...(isSparse ? { sparseSize: size } : {}) }))
    await write(map)
    if (bytes !== undefined) await write(bytes)
    else if (reader !== undefined) await writeData(taring, reader, data, path)
    await write(ZEROS.subarray(0, padding(length)))
    if (bytes !== undefined) counts.bytes += length
    counts.files += 1
  } catch (error) {
    if (!isOfOneFile(error)) throw error
    problems.add(path, 'unreadable', messageOf(error), codeOf(error))
  }
}

/** Exactly as many bytes as the header has told. */
async function writeData(taring: Taring, reader: BlockReader, data: readonly Range[], path: readonly string[]) {
  const { counts, free, options, problems, write } = taring
  const length = totalLength(data)
  let written = 0
  const read = async ({ offset, length }: Range, signal: AbortSignal): Promise<Buffer> => {
    const buffer = free.pop() ?? Buffer.allocUnsafeSlow(limits.copyReadBytes)
    const bytes = buffer.subarray(0, length)
    await reader.readInto(bytes, offset, { signal })
    return bytes
  }
  try {
    for await (const bytes of ahead(piecesOf(data, limits.copyReadBytes), limits.copyReadsPerFile, read, options)) {
      await write(bytes)
      written += bytes.length
      counts.bytes += bytes.length
      options.onProgress?.(counts)
      free.push(Buffer.from(bytes.buffer))
    }
  } catch (error) {
    if (!isOfOneFile(error)) throw error
    const reason = `${messageOf(error)}; after ${written} of ${length} bytes it has zeros`
    problems.add(path, 'unreadable', reason, codeOf(error))
    for (; written < length; written += Math.min(ZEROS.length, length - written))
      await write(ZEROS.subarray(0, Math.min(ZEROS.length, length - written)))
  }
}

const ZEROS = new Uint8Array(64 * 1024)

/** Small pieces go out together: a header alone is no write of its own. */
function gathering(write: WriteBytes): { write: WriteBytes; flush(): Promise<void> } {
  const target = Buffer.allocUnsafeSlow(limits.tarWriteBytes)
  let used = 0
  const flush = async () => {
    const bytes = target.subarray(0, used)
    used = 0
    if (bytes.length > 0) await write(bytes)
  }
  return {
    flush,
    async write(bytes) {
      if (used + bytes.length > target.length) await flush()
      if (bytes.length > target.length) return write(bytes)
      target.set(bytes, used)
      used += bytes.length
    },
  }
}
