/** Nodes as no honest filesystem has them: what damage or an attacker inside a guest can make of one. */
import type { BlockReader } from '../../src/block/block-device.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import type { Extent } from '../../src/core/range.ts'
import type { Attributes, DirectoryNode, Entry, FileNode, TreeNode } from '../../src/files/file-tree.ts'
import { virtualDirectory, virtualFile, virtualSpecial, virtualSymlink } from '../../src/files/virtual-node.ts'

let lastInode = 0n
const identity = () => ({ tree: 'hostile', inode: ++lastInode })

type Lie = Partial<Attributes>

/** Says other attributes than it has. */
export function lying<N extends TreeNode>(node: N, lie: Lie): N {
  const attributes = { ...node.attributes(), ...lie }
  return { ...node, attributes: () => attributes }
}

export function fileOf(
  content: string | Uint8Array,
  lie: Lie & { xattrs?: Record<string, Uint8Array> } = {},
): FileNode {
  const bytes = Buffer.from(content)
  const { xattrs = {}, ...attributes } = lie
  const given = { ...identity(), size: bytes.length, xattrs: new Map(Object.entries(xattrs)) }
  return lying(virtualFile({ ...given, open: async () => memoryDevice(bytes) }), attributes)
}

/** A reader that is as given, but for what it says of its extents. */
export function fileWithExtents(size: number, extents: () => Iterable<Extent>): FileNode {
  const reader: BlockReader = {
    size,
    blockSize: 4096,
    readInto: async target => void target.fill(0x2a),
    async *extents() {
      yield* extents()
    },
    [Symbol.asyncDispose]: async () => {},
  }
  return virtualFile({ ...identity(), size, open: async () => reader })
}

export const linkTo = (target: string, lie: Lie = {}) => lying(virtualSymlink({ ...identity(), target }), lie)

export const device = (major: number, minor: number) =>
  virtualSpecial({ ...identity(), kind: 'block-device', permissions: 0o666, device: { major, minor } })

/** Entries in this order, whatever their names, one batch each. */
export function folderOf(...entries: readonly (readonly [name: string, node: TreeNode])[]): DirectoryNode {
  return virtualDirectory({
    ...identity(),
    async *entries() {
      for (const [name, node] of entries) yield [{ name, node }] satisfies Entry[]
    },
  })
}
