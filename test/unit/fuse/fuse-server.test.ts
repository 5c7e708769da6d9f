/** The server against a kernel in memory, which can ask what a mounted one would not let through. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import type { DirectoryNode, FileNode } from '../../../src/files/file-tree.ts'
import { directory, file, memoryTree, symlink } from '../../../src/files/memory-tree.ts'
import { virtualDirectory, virtualFile } from '../../../src/files/virtual-node.ts'
import * as C from '../../../src/fuse/constants.ts'
import { E } from '../../../src/fuse/errno.ts'
import { serveTree } from '../../../src/fuse/fuse-server.ts'
import type { Acls } from '../../../src/fuse/operations.ts'
import { type FuseKernel, fuseBody, fuseKernel } from '../../doubles/fuse-kernel.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { until } from '../../doubles/until.ts'

const tree = memoryTree({
  hello: file('hello world', { xattrs: new Map([['user.x', Buffer.from('value')]]) }),
  link: symlink('hello'),
  sub: directory(Object.fromEntries(Array.from({ length: 250 }, (_, i) => [`file-${i}`, file(`${i}`)]))),
})

async function served(root: DirectoryNode = tree.root, clock = systemClock, acls?: Acls) {
  const kernel = fuseKernel()
  const troubles: string[] = []
  const onTrouble = (message: string) => troubles.push(message)
  const server = serveTree({ root, device: kernel.device, clock, acls, onTrouble })
  assert.equal((await kernel.init()).errno, 0)
  await server.ready
  return { kernel, server, troubles, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

async function lookup(kernel: FuseKernel, name: string, parent = 1): Promise<number> {
  const { errno, body } = await kernel.ask(C.FUSE_LOOKUP, parent, fuseBody(name))
  assert.equal(errno, 0, name)
  return Number(body.readBigUInt64LE(0))
}

async function open(kernel: FuseKernel, nodeId: number, opcode = C.FUSE_OPEN): Promise<number> {
  const { errno, body } = await kernel.ask(opcode, nodeId, fuseBody({ u32: 0 }, { u32: 0 }))
  assert.equal(errno, 0)
  return Number(body.readBigUInt64LE(0))
}

const readBody = (handle: number, offset: number, size: number) =>
  fuseBody(handle, offset, { u32: size }, { u32: 0 }, 0, 0)

test('it speaks the older of the two versions, and asks for what it can do of what the kernel can', async () => {
  const kernel = fuseKernel()
  await using server = serveTree({ root: tree.root, device: kernel.device, clock: systemClock })
  const { body } = await kernel.init(31)
  await server.ready
  assert.deepEqual([body.readUInt32LE(0), body.readUInt32LE(4), body.readUInt32LE(8)], [7, 31, 1 << 20])
  const flags = body.readUInt32LE(12)
  for (const flag of [C.FUSE_MAX_PAGES, C.FUSE_PARALLEL_DIROPS, C.FUSE_DO_READDIRPLUS, C.FUSE_CACHE_SYMLINKS])
    assert.ok((flags & flag) !== 0, `${flag}`)
  assert.equal(flags & C.FUSE_POSIX_ACL, 0)
  assert.equal(body.readUInt16LE(28), 256)
})

test('a kernel that is too old is refused, with what to do', async () => {
  for (const [major, minor] of [
    [7, 30],
    [6, 40],
    [8, 0],
  ] as const) {
    const kernel = fuseKernel()
    const server = serveTree({ root: tree.root, device: kernel.device, clock: systemClock })
    assert.equal((await kernel.init(minor, major)).errno, E.EPROTO)
    await assert.rejects(server.ready, { code: 'fuse-unavailable' })
    await assert.rejects(server.ended, { code: 'fuse-unavailable' })
    assert.ok(kernel.isClosed)
  }
})

test('everything that would change something is EROFS, and what is not known ENOSYS', async () => {
  await using mount = await served()
  const changing = {
    ...{
      setattr: 4,
      symlink: 6,
      mknod: 8,
      mkdir: 9,
      unlink: 10,
      rmdir: 11,
      rename: 12,
      link: 13,
      write: 16,
      setxattr: 21,
    },
    ...{ removexattr: 24, create: 35, fallocate: 43, rename2: 45, copyFileRange: 47, tmpfile: 51 },
  }
  for (const [name, opcode] of Object.entries(changing))
    assert.equal((await mount.kernel.ask(opcode, 1, Buffer.alloc(64))).errno, E.EROFS, name)
  const node = await lookup(mount.kernel, 'hello')
  for (const flags of [1, 2, 0o1000])
    assert.equal((await mount.kernel.ask(C.FUSE_OPEN, node, fuseBody({ u32: flags }, { u32: 0 }))).errno, E.EROFS)
  for (const opcode of [25, 34, 37, 9999])
    assert.equal((await mount.kernel.ask(opcode, 1)).errno, E.ENOSYS, `${opcode}`)
  assert.equal((await mount.kernel.ask(C.FUSE_IOCTL, 1, Buffer.alloc(32))).errno, E.ENOTTY)
  assert.deepEqual(mount.troubles, [])
})

test('a node that the kernel has given back is gone, and found again under the same id', async () => {
  await using mount = await served()
  const { kernel } = mount
  const node = await lookup(kernel, 'hello')
  assert.equal(await lookup(kernel, 'hello'), node)
  kernel.tell(C.FUSE_FORGET, node, fuseBody(1))
  assert.equal((await kernel.ask(C.FUSE_GETATTR, node, fuseBody(0, 0))).errno, 0)
  kernel.tell(C.FUSE_BATCH_FORGET, 0, fuseBody({ u32: 1 }, { u32: 0 }, node, 1))
  assert.equal((await kernel.ask(C.FUSE_GETATTR, node, fuseBody(0, 0))).errno, E.ESTALE)
  assert.equal(await lookup(kernel, 'hello'), node)
})

test('an answer that nobody has got counts for nothing: neither a lookup, nor a listing, nor an open file', async () => {
  let closed = 0
  const device = memoryDevice(Buffer.from('x'))
  const open1 = async () => ({ ...device, [Symbol.asyncDispose]: async () => void closed++ })
  const node: FileNode = virtualFile({ tree: 't', inode: 9n, size: 1, allocated: 1, open: open1 })
  const root = virtualDirectory({
    tree: 't',
    inode: 1n,
    async *entries() {
      yield [{ name: 'x', node }]
    },
  })
  await using mount = await served(root)
  const { kernel } = mount
  const id = await lookup(kernel, 'x')
  kernel.tell(C.FUSE_FORGET, id, fuseBody(1))
  await kernel.askAndLeave(C.FUSE_LOOKUP, 1, fuseBody('x'))
  assert.equal((await kernel.ask(C.FUSE_GETATTR, id, fuseBody(0, 0))).errno, E.ESTALE)
  const handle = await open(kernel, 1, C.FUSE_OPENDIR)
  await kernel.ask(C.FUSE_READDIR, 1, readBody(handle, 0, 4096))
  await kernel.askAndLeave(C.FUSE_READDIRPLUS, 1, readBody(handle, 0, 4096))
  assert.equal((await kernel.ask(C.FUSE_GETATTR, id, fuseBody(0, 0))).errno, E.ESTALE)
  await lookup(kernel, 'x')
  await kernel.askAndLeave(C.FUSE_OPEN, id, fuseBody({ u32: 0 }, { u32: 0 }))
  await until(() => closed === 1)
})

test('listings go on where they stopped, also from a place that was passed long ago', async () => {
  await using mount = await served()
  const { kernel } = mount
  const sub = await lookup(kernel, 'sub')
  const handle = await open(kernel, sub, C.FUSE_OPENDIR)
  const list = async (position: number, size: number) => {
    const { errno, body } = await kernel.ask(C.FUSE_READDIR, sub, readBody(handle, position, size))
    assert.equal(errno, 0)
    assert.ok(body.length <= size)
    const found: { name: string; next: number }[] = []
    for (let at = 0; at < body.length; at += (24 + body.readUInt32LE(at + 16) + 7) & ~7)
      found.push({
        name: body.toString('utf8', at + 24, at + 24 + body.readUInt32LE(at + 16)),
        next: Number(body.readBigUInt64LE(at + 8)),
      })
    return found
  }
  const all: { name: string; next: number }[] = []
  for (let part = await list(0, 1000); part.length > 0; part = await list(all.at(-1)!.next, 1000)) all.push(...part)
  assert.deepEqual(
    all.map(({ name }) => name),
    ['.', '..', ...Array.from({ length: 250 }, (_, i) => `file-${i}`)],
  )
  for (const position of [17, 249, 3, 0, 251])
    assert.equal((await list(position, 1000))[0]?.name, all[position]!.name, `from ${position}`)
  assert.deepEqual(await list(252, 1000), [])
})

test('reads end with the file, from memory and from elsewhere alike', async () => {
  const bytes = Buffer.from('0123456789')
  const { borrow, ...slow } = memoryDevice(bytes)
  for (const reader of [memoryDevice(bytes), slow]) {
    const node = virtualFile({ tree: 't', inode: 9n, size: 10, allocated: 10, open: async () => reader })
    await using mount = await served(
      virtualDirectory({
        tree: 't',
        inode: 1n,
        async *entries() {
          yield [{ name: 'x', node }]
        },
      }),
    )
    const { kernel } = mount
    const handle = await open(kernel, await lookup(kernel, 'x'))
    const read = async (offset: number, size: number) => {
      const { errno, body } = await kernel.ask(C.FUSE_READ, 9, readBody(handle, offset, size))
      return errno === 0 ? `${body}` : errno
    }
    assert.deepEqual(await Promise.all([read(0, 4), read(8, 100), read(10, 5), read(2 ** 40, 5)]), [
      '0123',
      '89',
      '',
      '',
    ])
    assert.equal((await kernel.ask(C.FUSE_READ, 9, readBody(handle + 1, 0, 4))).errno, E.EBADF)
  }
})

test('extended attributes: the value, its size, too little room, and none of that name', async () => {
  await using mount = await served()
  const { kernel } = mount
  const node = await lookup(kernel, 'hello')
  const get = (name: string, room: number) =>
    kernel.ask(C.FUSE_GETXATTR, node, fuseBody({ u32: room }, { u32: 0 }, name))
  assert.equal(`${(await get('user.x', 100)).body}`, 'value')
  assert.equal((await get('user.x', 0)).body.readUInt32LE(0), 5)
  assert.equal((await get('user.x', 4)).errno, E.ERANGE)
  assert.equal((await get('user.y', 100)).errno, E.ENODATA)
  const { body } = await kernel.ask(C.FUSE_LISTXATTR, node, fuseBody({ u32: 100 }, { u32: 0 }))
  assert.equal(`${body}`, 'user.x\0')
})

/** A file whose reads fail or wait, as the test says. */
async function withReader(readInto: (signal: AbortSignal) => Promise<void>, clock = systemClock) {
  const { borrow, ...device } = memoryDevice(Buffer.alloc(8192))
  const reader = {
    ...device,
    readInto: (_: Uint8Array, __: number, options?: { signal?: AbortSignal }) => readInto(options!.signal!),
  }
  const node = virtualFile({ tree: 't', inode: 9n, size: 8192, allocated: 8192, open: async () => reader })
  const mount = await served(
    virtualDirectory({
      tree: 't',
      inode: 1n,
      async *entries() {
        yield [{ name: 'x', node }]
      },
    }),
    clock,
  )
  const handle = await open(mount.kernel, await lookup(mount.kernel, 'x'))
  return { ...mount, read: (offset = 0) => mount.kernel.ask(C.FUSE_READ, 9, readBody(handle, offset, 4096)) }
}

test('where only root looks, an ACL that cannot be read counts as none; elsewhere, and of other attributes, that is an error', async () => {
  const damaged: FileNode = {
    ...virtualFile({ tree: 'damaged', inode: 2n, size: 1, open: async () => memoryDevice(Buffer.alloc(1)) }),
    xattrs: () => Promise.reject(new LifeboatError('guest-filesystem', 'a block of attributes is damaged')),
  }
  const root = virtualDirectory({ tree: 'damaged', inode: 1n, entries: async () => [{ name: 'file', node: damaged }] })
  for (const [acls, errno] of [
    ['kept', E.ENODATA],
    ['enforced', E.EIO],
    [undefined, E.EIO],
  ] as const) {
    await using t = await served(root, systemClock, acls)
    const node = await lookup(t.kernel, 'file')
    const ask = (name: string) => t.kernel.ask(C.FUSE_GETXATTR, node, fuseBody({ u32: 4096 }, { u32: 0 }, name))
    assert.equal((await ask('system.posix_acl_access')).errno, errno)
    assert.equal((await ask('user.x')).errno, E.EIO)
    assert.equal(t.troubles.length, 2)
  }
})

test('a store that stays away is EIO and is told of, and the next read is answered', async () => {
  let away = true
  await using mount = await withReader(async () => {
    if (away) throw new LifeboatError('store-unreachable', 'the store is away', { retry: 'transient' })
  })
  assert.equal((await mount.read()).errno, E.EIO)
  assert.deepEqual(mount.troubles, ['a read at 0+4096 failed: the store is away'])
  away = false
  assert.equal((await mount.read()).errno, 0)
})

test('all reads are under way at once, and answered as they end', async () => {
  const waiting: (() => void)[] = []
  await using mount = await withReader(() => new Promise(resolve => waiting.push(resolve)))
  const ended: number[] = []
  const reads = Array.from({ length: 32 }, (_, i) => mount.read().then(() => ended.push(i)))
  await until(() => waiting.length === 32)
  for (const resolve of waiting.reverse()) resolve()
  await Promise.all(reads)
  assert.deepEqual(
    ended,
    Array.from({ length: 32 }, (_, i) => 31 - i),
  )
})

test('a read that is interrupted has a moment to end, then is EINTR and told to stop', async () => {
  const clock = manualClock()
  let signal: AbortSignal | undefined
  await using mount = await withReader(given => {
    signal = given
    return new Promise((_, reject) => given.addEventListener('abort', () => reject(given.reason)))
  }, clock)
  const read = mount.read()
  await until(() => signal !== undefined)
  mount.kernel.tell(C.FUSE_INTERRUPT, 0, fuseBody(read.unique))
  assert.equal((await mount.kernel.ask(C.FUSE_STATFS, 1)).errno, 0)
  assert.equal(signal?.aborted, false)
  await clock.advance(limits.fuseInterruptMs)
  assert.equal((await read).errno, E.EINTR)
  assert.equal(signal?.aborted, true)
  assert.deepEqual(mount.troubles, [])
})

test('a tree that never answers is EIO in the end', async () => {
  const clock = manualClock()
  let signal: AbortSignal | undefined
  await using mount = await withReader(given => {
    signal = given
    return new Promise(() => {})
  }, clock)
  const read = mount.read()
  await until(() => signal !== undefined)
  for (let tenths = 0; tenths < 11; tenths++) await clock.advance(limits.fuseAnswerMs / 10)
  assert.equal((await read).errno, E.EIO)
  assert.equal(signal?.aborted, true)
})

test('when it is unmounted what is under way is told to stop, and the device is closed', async () => {
  let signal: AbortSignal | undefined
  const mount = await withReader(given => {
    signal = given
    return new Promise(() => {})
  })
  void mount.read()
  await until(() => signal !== undefined)
  mount.kernel.unmount()
  await mount.server.ended
  assert.equal(signal?.aborted, true)
  assert.ok(mount.kernel.isClosed)
})
