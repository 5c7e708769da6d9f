/** Compares a tree that Lifeboat shows with the truth of a test's disk, file by file, and says each difference in words. */
import { createHash } from 'node:crypto'
import type { BlockReader } from '../../src/block/block-device.ts'
import type { AbortOptions } from '../../src/core/scope.ts'
import type { DirectoryNode, FileNode, TreeNode } from '../../src/files/file-tree.ts'
import type { Holds } from '../guest/guest-layouts.ts'
import { contentsOf, isSparse, type TrueFile } from '../guest/reference-tree.ts'

export interface Comparison {
  readonly compared: number
  readonly bytes: number
  /** Each is a line for people. */
  readonly differences: readonly string[]
}

const PIECE = 1024 * 1024
/** What mkfs makes, and what ntfs-3g shows of a volume's own. */
const OWN = /^(lost\+found|\$Extend|System Volume Information|\$RECYCLE\.BIN)$/

export async function compareTree(
  root: DirectoryNode,
  truth: readonly TrueFile[],
  holds: Holds,
  options: AbortOptions = {},
): Promise<Comparison> {
  const found = new Map<string, TreeNode>()
  const differences: string[] = []
  await collect(root, '', found, differences, options)
  let bytes = 0
  const byPath = new Map(truth.map(each => [each.path, each]))
  for (const named of truth) {
    const node = found.get(named.path)
    found.delete(named.path)
    if (node === undefined) {
      differences.push(`${show(named.path)} is missing`)
      continue
    }
    const meant = named.hardLinkOf === undefined ? named : byPath.get(named.hardLinkOf)!
    const said = await differencesOf(node, meant, linksOf(meant, truth), holds, options)
    differences.push(...said.map(line => `${show(named.path)}: ${line}`))
    bytes += meant.size
  }
  for (const path of found.keys()) differences.push(`${show(path)} is there, and should not be`)
  return { compared: truth.length, bytes, differences }
}

const show = (path: string): string => JSON.stringify(path.length > 80 ? `${path.slice(0, 80)}...` : path)

const linksOf = (meant: TrueFile, truth: readonly TrueFile[]): number =>
  1 + truth.filter(({ hardLinkOf }) => hardLinkOf === meant.path).length

async function collect(
  folder: DirectoryNode,
  prefix: string,
  into: Map<string, TreeNode>,
  differences: string[],
  options: AbortOptions,
): Promise<void> {
  for await (const batch of folder.list(options))
    for (const { name, node } of batch) {
      const path = prefix + name
      if (prefix === '' && OWN.test(name)) continue
      if (into.has(path)) differences.push(`${show(path)} is listed twice`)
      into.set(path, node)
      if (node.kind === 'directory') await collect(node, `${path}/`, into, differences, options)
    }
}

async function differencesOf(
  node: TreeNode,
  meant: TrueFile,
  links: number,
  holds: Holds,
  options: AbortOptions,
): Promise<string[]> {
  const said: string[] = []
  const same = (what: string, actual: unknown, expected: unknown): void => {
    if (actual !== expected) said.push(`${what} is ${actual}, not ${expected}`)
  }
  const is = node.attributes()
  same('kind', node.kind, meant.kind)
  same('kind in the attributes', is.kind, meant.kind)
  if (node.kind !== meant.kind) return said
  if (meant.modifiedNs !== undefined)
    same('modified', cut(is.modifiedNs, holds.timeNs), cut(meant.modifiedNs, holds.timeNs))
  if (holds.owner) {
    same('permissions', is.permissions.toString(8), meant.permissions.toString(8))
    same('owner', `${is.uid}:${is.gid}`, `${meant.uid}:${meant.gid}`)
  }
  if (meant.device)
    same('device', `${is.device?.major}:${is.device?.minor}`, `${meant.device.major}:${meant.device.minor}`)
  if (meant.kind !== 'directory' && holds.links) same('links', is.links, links)
  if (holds.xattrs) said.push(...xattrDifferences(await node.xattrs(options), meant))
  if (node.kind === 'symlink') same('target', await node.readLink(options), meant.target)
  if (node.kind === 'file') {
    same('size', is.size, meant.size)
    if (holds.holes !== 'none' && isSparse(meant) && is.allocated * 2 > is.size)
      said.push(`${is.allocated} bytes of ${is.size} are allocated: its holes are lost`)
    said.push(...(await contentDifferences(node, meant, holds, options)))
  }
  return said
}

/** Towards the past, as filesystems do, also before 1970. */
const cut = (ns: bigint, unit: bigint): bigint => ns - (((ns % unit) + unit) % unit)

/** SELinux labels and the like are the host's own. */
function xattrDifferences(actual: ReadonlyMap<string, Uint8Array>, { xattrs }: TrueFile): string[] {
  const hex = (value: Uint8Array | undefined): string => (value ? Buffer.from(value).toString('hex') : 'absent')
  const names = new Set([...actual.keys(), ...Object.keys(xattrs)])
  return [...names]
    .filter(name => hex(actual.get(name)) !== hex(xattrs[name]))
    .map(name => `attribute ${name} is ${hex(actual.get(name))}, not ${hex(xattrs[name])}`)
}

async function contentDifferences(
  node: FileNode,
  meant: TrueFile,
  holds: Holds,
  options: AbortOptions,
): Promise<string[]> {
  try {
    await using reader = await node.open(options)
    const said: string[] = []
    if (reader.size !== meant.size) return [`its contents have ${reader.size} bytes, not ${meant.size}`]
    const expected = contentsOf(meant)
    const hash = createHash('sha256')
    for (let offset = 0; offset < reader.size; offset += PIECE) {
      const piece = Buffer.alloc(Math.min(PIECE, reader.size - offset))
      await reader.readInto(piece, offset, options)
      hash.update(piece)
    }
    if (hash.digest('hex') !== createHash('sha256').update(expected).digest('hex')) said.push('its contents differ')
    if (holds.holes === 'known' && isSparse(meant)) said.push(...(await holeDifferences(reader, expected, options)))
    return said
  } catch (error) {
    return [`cannot be read: ${error instanceof Error ? error.message : error}`]
  }
}

async function holeDifferences(reader: BlockReader, expected: Buffer, options: AbortOptions): Promise<string[]> {
  let covered = 0
  let zero = 0
  for await (const extent of reader.extents({ offset: 0, length: reader.size }, options)) {
    if (extent.offset !== covered) return [`extents go from ${covered} to ${extent.offset}`]
    covered += extent.length
    if (extent.kind !== 'zero') continue
    zero += extent.length
    if (expected.subarray(extent.offset, covered).some(byte => byte !== 0))
      return [`${extent.offset}+${extent.length} is called a hole and holds data`]
  }
  if (covered !== reader.size) return [`extents cover ${covered} of ${reader.size} bytes`]
  return zero * 2 < reader.size ? [`only ${zero} of its ${reader.size} bytes are known to be holes`] : []
}
