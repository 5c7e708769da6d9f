/**
 * A process that serves a tree at a mount point, for tests that look at it from others: nobody may look at his own mount. Says
 * 'mounted' or why not, then each trouble, and 'ended' when it is served no longer. SIGTERM unmounts.
 */

import type { BlockReader } from '../../src/block/block-device.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError, LifeboatError } from '../../src/core/errors.ts'
import type { AbortOptions } from '../../src/core/scope.ts'
import type { DirectoryNode, TreeNode } from '../../src/files/file-tree.ts'
import {
  type Described,
  directory,
  file,
  memoryTree,
  sparseFile,
  special,
  symlink,
} from '../../src/files/memory-tree.ts'
import { virtualDirectory, virtualFile } from '../../src/files/virtual-node.ts'
import { mountTree } from '../../src/fuse/mount.ts'
import { patternBytes } from './pattern.ts'

export const IMAGE_BYTES = 8 << 20
export const HOLE_AT = 1 << 20
export const HOLE_UNTIL = 3 << 20
export const TIME_NS = 1_234_567_890_123_456_789n

/** That of `setfacl -m u:5555:r` on a file of mode 0640. */
const ACL = Buffer.from(
  '0200000001000600ffffffff02000400b315000004000400ffffffff10000400ffffffff20000000ffffffff',
  'hex',
)

const hardLink = file('hello\n', {
  modifiedNs: TIME_NS,
  changedNs: TIME_NS + 1n,
  accessedNs: TIME_NS + 2n,
  bornNs: TIME_NS - 1_000_000_000n,
  permissions: 0o4750,
  uid: 1234,
  gid: 4321,
  xattrs: new Map([
    ['user.demo', Buffer.from('value\0with nul')],
    ['security.capability', Buffer.from('0100000200200000000000000000000000000000', 'hex')],
    ['system.posix_acl_access', ACL],
  ]),
})

/** Bytes that come after a moment, never, or not at all. */
function trouble(readInto: (target: Uint8Array, offset: number, options?: AbortOptions) => Promise<void>): BlockReader {
  const { borrow, ...device } = memoryDevice(someBytes)
  return { ...device, readInto }
}

const imageBytes = patternBytes(IMAGE_BYTES)
const someBytes = imageBytes.subarray(0, 1 << 20)

const readers: Readonly<Record<string, () => BlockReader>> = {
  image: () => memoryDevice(imageBytes),
  slow: () =>
    trouble(async (target, offset, options) => {
      await systemClock.sleep(400, options)
      target.set(someBytes.subarray(offset, offset + target.length))
    }),
  hung: () =>
    trouble(
      (_, __, { signal } = {}) =>
        new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason))),
    ),
  deaf: () => trouble(() => new Promise(() => {})),
  away: () =>
    trouble(async () => {
      throw new LifeboatError('store-unreachable', 'the store is away', { retry: 'transient' })
    }),
}

function testTree(entries: number): DirectoryNode {
  const plain: Record<string, Described> = {
    one: hardLink,
    two: hardLink,
    link: symlink('../somewhere/else'),
    'n\u00e4me with space': file('x'),
    '\udcff\udcfe': file('not UTF-8'),
    sparse: sparseFile(4 << 20, [
      { bytes: Buffer.alloc(HOLE_AT, 1), offset: 0 },
      { bytes: Buffer.alloc((4 << 20) - HOLE_UNTIL, 2), offset: HOLE_UNTIL },
    ]),
    fifo: special('fifo'),
    null: special('character-device', { device: { major: 1, minor: 3 } }),
    dir: directory({ sub: directory({ deep: file('deep') }) }),
    many: directory(Object.fromEntries(Array.from({ length: entries }, (_, i) => [`entry-${i}`, file(`${i}`)]))),
  }
  const { root } = memoryTree(plain)
  const nodes = Object.entries(readers).map(([name, open], i): { name: string; node: TreeNode } => {
    const { size } = open()
    return { name, node: virtualFile({ tree: 'readers', inode: BigInt(i), size, open: async () => open() }) }
  })
  return virtualDirectory({
    tree: 'both',
    inode: 2n ** 63n,
    async *entries(options) {
      yield* root.list(options)
      yield nodes
    },
    lookup: async name => nodes.find(entry => entry.name === name)?.node ?? root.lookup(name),
  })
}

const say = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`)

if (import.meta.main) {
  const [mountPoint = '', words = '{}'] = process.argv.slice(2)
  const {
    uid,
    allowOther = false,
    entries = 500,
  }: { uid?: number; allowOther?: boolean; entries?: number } = JSON.parse(words)
  if (uid !== undefined) {
    process.setgroups?.([])
    process.setgid?.(uid)
    process.setuid?.(uid)
  }
  try {
    const mounted = await mountTree({
      root: testTree(entries),
      mountPoint,
      allowOther,
      fsName: 'a repository, with a comma',
      statfs: async () => ({ blockSize: 4096, blocks: 1000n, free: 250n, files: 77n }),
      clock: systemClock,
      onTrouble: message => say({ trouble: message }),
    })
    process.on('SIGTERM', () => void mounted[Symbol.asyncDispose]())
    say({ mounted: mounted.mountPoint })
    await mounted.ended
    say({ ended: true })
  } catch (error) {
    say({
      failed: isLifeboatError(error) ? error.code : `${error}`,
      message: `${error}`,
      hint: isLifeboatError(error) ? error.details.hint : '',
    })
    process.exitCode = 1
  }
  // Its reads may wait for ever; it may not.
  process.exit()
}
