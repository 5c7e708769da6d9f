/** `files/` of a point: the guest's own files, for as long as the kernel remembers them, whatever becomes of who parses them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import type { DirectoryNode, FileTree } from '../../../src/files/file-tree.ts'
import { type Described, directory, file } from '../../../src/files/memory-tree.ts'
import type { OpenGuest } from '../../../src/guest/guest-filesystems.ts'
import { fileTreeContract, manyNames, sampleTree } from '../../contract/file-tree-contract.ts'
import { guestDisk, type MemoryVolume, memoryGuests } from '../../doubles/memory-guest.ts'
import { contentOf, mountedFixture, mountedPoints } from '../../doubles/mounted-points.ts'

const FILES = '/by-vm/web/latest/files'

/** A mount of points, each with the guest 'g'. */
async function mountedGuest(
  volumes: readonly MemoryVolume[] | LifeboatError,
  { points = 1, wrap }: { points?: number; wrap?: (tree: FileTree) => FileTree } = {},
) {
  const fixture = await mountedFixture()
  for (let n = 0; n < points; n++)
    await fixture.writePoint({ disks: [{ name: 'vda', size: 4096, writes: [[0, guestDisk('g')]] }] })
  const guests = memoryGuests({ g: volumes }, wrap)
  return { guests, mount: await mountedPoints(fixture, { openGuest: guests.open }) }
}

const withMany: Readonly<Record<string, Described>> = {
  ...sampleTree,
  many: directory(Object.fromEntries(manyNames().map(name => [name, file(name)]))),
}

fileTreeContract({
  name: 'a volume in the mount',
  async open(cleanup) {
    const { mount } = await mountedGuest([{ name: 'vda-p1', entries: withMany }])
    cleanup.use(mount)
    const root = await mount.node(`${FILES}/vda-p1`)
    assert.ok(root?.kind === 'directory')
    return { root, [Symbol.asyncDispose]: async () => {} }
  },
})

/** Nodes that answer until a guest is closed. */
function untilClosed(closes: () => number): (tree: FileTree) => FileTree {
  return tree => {
    const { root } = tree
    const before = closes()
    const check = () => assert.equal(closes(), before, 'a node of a guest that was closed was asked')
    const alive = (node: DirectoryNode): DirectoryNode => ({
      ...node,
      async lookup(name, options) {
        check()
        const found = await node.lookup(name, options)
        if (found?.kind === 'directory') return alive(found)
        if (found?.kind !== 'file') return found
        return {
          ...found,
          open(late) {
            check()
            return found.open(late)
          },
        }
      },
    })
    return { ...tree, root: alive(root) }
  }
}

test('a guest is opened by the first look, closed when nobody has looked for a while, and files known from before still work', async () => {
  const entries = { etc: directory({ fstab: file('/dev/vda1 /\n') }) }
  const closes = (): number => guests.asked.filter(word => word === 'close').length
  const { guests, mount } = await mountedGuest([{ name: 'vda-p1', entries }], { wrap: untilClosed(closes) })
  await using _ = mount
  await mount.names('/by-vm/web/latest/')
  assert.equal(guests.asked.length, 0, 'nobody has looked')
  assert.deepEqual(await mount.names(FILES), ['vda-p1'])
  assert.deepEqual(guests.asked, ['open vda', 'volumes'])
  const etc = await mount.node(`${FILES}/vda-p1/etc`)
  const fstab = await mount.file(`${FILES}/vda-p1/etc/fstab`)
  assert.ok(etc?.kind === 'directory')
  const open = await fstab.open()
  await mount.clock.advance(limits.mountGuestIdleMs)
  assert.ok(!guests.asked.includes('close'), 'a file of it is open')
  await open[Symbol.asyncDispose]()
  await mount.clock.advance(limits.mountGuestIdleMs)
  assert.equal(guests.asked.at(-1), 'close')
  assert.equal(Buffer.from(await contentOf(fstab)).toString(), '/dev/vda1 /\n')
  assert.equal(guests.asked.filter(word => word === 'open vda').length, 2)
  const again = await etc.lookup('fstab')
  assert.deepEqual(
    [again?.tree, again?.attributes().inode],
    [fstab.tree, fstab.attributes().inode],
    'the same file as before',
  )
})

test('where whoever parses a guest is lost, the call fails and the next one has another', async () => {
  let losses = 0
  const lossy = (node: DirectoryNode): DirectoryNode => ({
    ...node,
    async lookup(name, options) {
      if (losses > 0) {
        losses--
        throw new LifeboatError('guest-lost', 'it was killed')
      }
      return await node.lookup(name, options)
    },
  })
  const wrap = (tree: FileTree): FileTree => ({ ...tree, root: lossy(tree.root) })
  const { guests, mount } = await mountedGuest([{ name: 'vda-p1', entries: { a: file('a') } }], { wrap })
  await using _ = mount
  assert.equal(await mount.text(`${FILES}/vda-p1/a`), 'a')
  losses = 1
  await assert.rejects(mount.node(`${FILES}/vda-p1/a`), { code: 'guest-lost' })
  assert.equal(losses, 0, 'it was lost')
  assert.equal(await mount.text(`${FILES}/vda-p1/a`), 'a')
  assert.deepEqual(guests.asked.filter(word => /open|close/.test(word)).sort(), ['close', 'open vda', 'open vda'])
})

test('a volume that cannot be read is a text that says why, and swap is nothing', async () => {
  const { mount } = await mountedGuest([
    { name: 'vda-p1', entries: {} },
    { name: 'vda-p2', type: 'swap', state: 'nothing' },
    { name: 'vda-p3', type: 'crypto_LUKS', key: 'secret' },
    { name: 'vda-p4', type: 'ReFS', state: 'unsupported', reason: 'nothing free reads ReFS' },
    { name: '../evil\n', entries: {} },
  ])
  await using _ = mount
  assert.deepEqual(await mount.names(FILES), ['vda-p1', 'vda-p3.txt', 'vda-p4.txt', '%2E.%2Fevil%0A'])
  assert.match(await mount.text(`${FILES}/vda-p3.txt`), /--guest-key vda-p3=FILE/)
  const text = await mount.text(`${FILES}/vda-p4.txt`)
  process.stdout.write(text)
  assert.match(text, /nothing free reads ReFS[\s\S]*lifeboat boot web@/)
})

test('a volume that turns out to be damaged becomes such a text', async () => {
  const { mount } = await mountedGuest(
    [
      { name: 'vda-p1', entries: {} },
      { name: 'vda-p2', entries: {} },
    ],
    {
      wrap: () => {
        throw new LifeboatError('guest-filesystem', 'bad superblock')
      },
    },
  )
  await using _ = mount
  await assert.rejects(mount.names(`${FILES}/vda-p1`), { code: 'guest-filesystem' })
  assert.deepEqual(await mount.names(FILES), ['vda-p1.txt', 'vda-p2'])
  assert.match(await mount.text(`${FILES}/vda-p1.txt`), /bad superblock/)
})

test('where this host cannot open guests, a text says what is missing; a store that is away is an error', async () => {
  const missing = new LifeboatError('tool-missing', 'there is no qemu', { hint: 'install it' })
  const { mount } = await mountedGuest(missing)
  await using _ = mount
  assert.deepEqual(await mount.names(FILES), ['README.txt'])
  assert.match(await mount.text(`${FILES}/README.txt`), /there is no qemu\nWhat to do: install it/)
  const away = await mountedGuest(new LifeboatError('store-unreachable', 'reset'))
  await using __ = away.mount
  await assert.rejects(away.mount.names(FILES), { code: 'store-unreachable' })
})

test('only so many guests are open at once: who looks from point to point closes those behind', async () => {
  const points = limits.mountGuestsOpen + 4
  const open = memoryGuests({ g: [{ name: 'vda-p1', entries: { a: file('a') } }] })
  let [now, most] = [0, 0]
  const counted: OpenGuest = async (disks, options) => {
    most = Math.max(most, ++now)
    const guest = await open.open(disks, options)
    return {
      ...guest,
      async [Symbol.asyncDispose]() {
        now--
        await guest[Symbol.asyncDispose]()
      },
    }
  }
  const fixture = await mountedFixture()
  for (let n = 0; n < points; n++)
    await fixture.writePoint({ disks: [{ name: 'vda', size: 4096, writes: [[0, guestDisk('g')]] }] })
  {
    await using mount = await mountedPoints(fixture, { openGuest: counted })
    for (const time of (await mount.names('/by-vm/web')).slice(0, -1))
      assert.equal(await mount.text(`/by-vm/web/${time}/files/vda-p1/a`), 'a')
  }
  assert.ok(most >= 2 && most <= limits.mountGuestsOpen + 1, `${most} at once`)
  assert.equal(now, 0, 'all are closed with the mount')
})
