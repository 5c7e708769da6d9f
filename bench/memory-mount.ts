/**
 * Serves one tree in memory, by our server or by fuse-native, without extended attributes: `image`, and folders of small files,
 * each of which is looked at once. SIGTERM unmounts.
 */
import { memoryDevice } from '../src/block/memory.ts'
import { systemClock } from '../src/core/clock.ts'
import { MiB } from '../src/core/limits.ts'
import type { TreeNode } from '../src/files/file-tree.ts'
import { directory, file, memoryTree } from '../src/files/memory-tree.ts'
import { virtualDirectory, virtualFile } from '../src/files/virtual-node.ts'
import { mountTree } from '../src/fuse/mount.ts'
import { patternBytes } from '../test/doubles/pattern.ts'

export const IMAGE_BYTES = 256 * MiB
export const ENTRIES = 5_000
export const FOLDERS = 16

const names = Array.from({ length: ENTRIES }, (_, i) => `entry-${i}`)
const folders = Array.from({ length: FOLDERS }, (_, i) => `folder-${i}`)

async function ours(at: string, image: Buffer): Promise<void> {
  const folder = () => directory(Object.fromEntries(names.map(name => [name, file(name)])))
  const { root } = memoryTree(Object.fromEntries(folders.map(name => [name, folder()])))
  // A tree makes a node when it is asked for first; the peer's answers are made beforehand too.
  for await (const batch of root.list()) for (const { node } of batch) await list(node)
  const device = memoryDevice(image)
  const node = virtualFile({ tree: 'image', inode: 1n, size: image.length, open: async () => device })
  const both = virtualDirectory({
    tree: 'both',
    inode: 1n,
    async *entries(options) {
      yield [{ name: 'image', node }]
      yield* root.list(options)
    },
    lookup: async name => (name === 'image' ? node : root.lookup(name)),
  })
  const mounted = await mountTree({ root: both, mountPoint: at, fsName: 'bench', clock: systemClock })
  process.once('SIGTERM', () => void mounted[Symbol.asyncDispose]())
  process.stdout.write('mounted\n')
  await mounted.ended
}

async function list(node: TreeNode): Promise<void> {
  if (node.kind === 'directory') await Array.fromAsync(node.list())
}

/** `answersXattrs`: it says of each file that it has none, as we do; without, the kernel hears once that it knows nothing of them. */
async function fuseNative(at: string, image: Buffer, answersXattrs: boolean): Promise<void> {
  const { default: Fuse } = await import('fuse-native')
  const now = new Date()
  const stat = (mode: number, size: number) => ({
    mtime: now,
    atime: now,
    ctime: now,
    nlink: 1,
    size,
    mode,
    uid: 0,
    gid: 0,
  })
  const contents = new Map<string, Buffer>([['/image', image]])
  for (const folder of folders) for (const name of names) contents.set(`/${folder}/${name}`, Buffer.from(name))
  const isFolder = new Set(['/', ...folders.map(name => `/${name}`)])
  const fuse = new Fuse(
    at,
    {
      readdir: (path, reply) => reply(0, path === '/' ? ['image', ...folders] : names),
      getattr(path, reply) {
        const content = contents.get(path)
        if (content !== undefined) reply(0, stat(0o100644, content.length))
        else if (isFolder.has(path)) reply(0, stat(0o040755, 4096))
        else reply(Fuse.ENOENT)
      },
      ...(answersXattrs ? { getxattr: (_, __, ___, reply) => reply(0) } : {}),
      open: (_, __, reply) => reply(0, 1),
      read: (path, _, target, length, offset, reply) =>
        reply(contents.get(path)?.copy(target, 0, offset, offset + length) ?? 0),
    },
    { kernelCache: true },
  )
  await new Promise<void>((resolve, reject) =>
    fuse.mount(error => (error === null || error === undefined ? resolve() : reject(error))),
  )
  process.stdout.write('mounted\n')
  await new Promise(resolve => process.once('SIGTERM', resolve))
  await new Promise(resolve => fuse.unmount(resolve))
}

const [who, at = ''] = process.argv.slice(2)
if (import.meta.main) {
  const image = patternBytes(IMAGE_BYTES)
  if (who === 'ours') await ours(at, image)
  else await fuseNative(at, image, who === 'fuse-native')
  process.exit()
}
