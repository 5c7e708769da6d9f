/** What a mount shows of a repository: layout, names, times, and what comes and goes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limits } from '../../../src/core/limits.ts'
import { forgottenKey } from '../../../src/repository/object-keys.ts'
import { contentOf, mountedFixture, mountedPoints } from '../../doubles/mounted-points.ts'
import { keysOf, noise } from '../../doubles/repository-fixture.ts'

const CHUNK = 4096
const SIZE = 40 * CHUNK + 512
const disk = (name: string, seed = name) => ({
  name,
  size: SIZE,
  writes: [[2 * CHUNK, noise(seed, 3 * CHUNK)]] as const,
})

test('every VM, point and disk has its place, and a disk reads as it was', async () => {
  const fixture = await mountedFixture()
  const point = await fixture.writePoint({ vm: 'web', disks: [disk('vda'), disk('vdb')] })
  await fixture.writePoint({ vm: 'db', disks: [disk('vda')] })
  await using mount = await mountedPoints(fixture)
  assert.deepEqual(await mount.names('/'), ['by-vm', 'by-time'])
  assert.deepEqual(await mount.names('/by-vm'), ['db', 'web'])
  assert.deepEqual(await mount.names('/by-vm/web'), ['2026-11-21T10:00:00Z', 'latest'])
  assert.deepEqual(await mount.names('/by-vm/web/latest/'), ['disks', 'manifest.json'])
  assert.deepEqual(await mount.names('/by-vm/web/latest/disks'), ['vda.raw', 'vdb.raw'])
  assert.deepEqual(await mount.names('/by-time'), ['2026-11-21'])
  assert.deepEqual(await mount.names('/by-time/2026-11-21'), ['db-2026-11-21T10:01:00Z', 'web-2026-11-21T10:00:00Z'])
  const image = await mount.file('/by-time/2026-11-21/web-2026-11-21T10:00:00Z/disks/vda.raw')
  const { size, allocated, permissions, modifiedNs, uid, gid } = image.attributes()
  assert.deepEqual(
    { size, allocated, permissions, modifiedNs, uid, gid },
    {
      size: SIZE,
      allocated: 3 * CHUNK,
      permissions: 0o444,
      modifiedNs: BigInt(point.takenAt.getTime()) * 1_000_000n,
      uid: 1000,
      gid: 100,
    },
  )
  const expected = new Uint8Array(SIZE)
  expected.set(noise('vda', 3 * CHUNK), 2 * CHUNK)
  assert.ok(Buffer.compare(await contentOf(image), expected) === 0)
  await using reader = await image.open()
  assert.deepEqual(
    (await Array.fromAsync(reader.extents({ offset: 0, length: SIZE }))).map(({ length, kind }) => [length, kind]),
    [
      [2 * CHUNK, 'zero'],
      [3 * CHUNK, 'data'],
      [SIZE - 5 * CHUNK, 'zero'],
    ],
  )
  assert.equal(reader.borrow?.(2 * CHUNK, 16)?.views[0]?.length, 16, 'what was read lies in memory')
})

test('manifest.json tells what the point says of itself, with its holds', async () => {
  const fixture = await mountedFixture()
  const point = await fixture.writePoint({ disks: [disk('vda')] })
  await using mount = await mountedPoints(fixture)
  const read = async () => JSON.parse(await mount.text('/by-vm/web/latest/manifest.json'))
  const { id, vm, kind, consistency, disks, holds } = await read()
  assert.deepEqual(
    { id, vm, kind, consistency, holds },
    { id: point.id, vm: 'web', kind: 'full', consistency: 'crash', holds: [] },
  )
  assert.deepEqual([disks[0].name, disks[0].size, disks[0].salt, disks[0].top], ['vda', SIZE, undefined, undefined])
  const before = await mount.file('/by-vm/web/latest/manifest.json')
  await fixture.repository.reading.control.put('hold', 'holds/0011223344556677', {
    point: point.id,
    who: 'anna@host',
    reason: 'lawsuit',
    created: '2026-11-21T12:00:00Z',
  })
  await mount.clock.advance(limits.mountHoldsMs)
  assert.deepEqual(
    (await read()).holds.map(({ who, reason }: { who: string; reason: string }) => [who, reason]),
    [['anna@host', 'lawsuit']],
  )
  const after = await mount.file('/by-vm/web/latest/manifest.json')
  assert.notEqual(after.attributes().inode, before.attributes().inode, 'another text is another file')
  assert.equal(
    JSON.parse(Buffer.from(await contentOf(before)).toString()).holds.length,
    0,
    'who has the old one open reads the old one',
  )
})

test('a new point appears and becomes the latest, a forgotten one vanishes and stays readable for who has it open', async () => {
  const fixture = await mountedFixture()
  const first = await fixture.writePoint({ disks: [disk('vda', 'first')] })
  await using mount = await mountedPoints(fixture)
  const latest = async () => {
    const web = await mount.node('/by-vm/web')
    const link = web?.kind === 'directory' ? await web.lookup('latest') : undefined
    return link?.kind === 'symlink' ? await link.readLink() : undefined
  }
  assert.equal(await latest(), '2026-11-21T10:00:00Z')
  const opened = await (await mount.file('/by-vm/web/latest/disks/vda.raw')).open()
  await fixture.writePoint({ disks: [disk('vda', 'second')] })
  assert.equal(await latest(), '2026-11-21T10:00:00Z', 'within the time a listing counts')
  await mount.clock.advance(limits.mountListMs)
  assert.equal(await latest(), '2026-11-21T10:01:00Z')

  await fixture.repository.reading.control.put('forgotten', forgottenKey(first.id), {
    point: first.id,
    who: 'x',
    when: '2026-11-21T12:00:00Z',
  })
  await mount.clock.advance(limits.mountListMs)
  assert.deepEqual(await mount.names('/by-vm/web'), ['2026-11-21T10:01:00Z', 'latest'])
  assert.deepEqual(await mount.names('/by-time/2026-11-21'), ['web-2026-11-21T10:01:00Z'])
  const bytes = new Uint8Array(3 * CHUNK)
  await opened.readInto(bytes, 2 * CHUNK)
  assert.ok(Buffer.compare(bytes, noise('first', 3 * CHUNK)) === 0)
  assert.equal(keysOf(fixture.store, 'pins/').length, 1, 'its pin stands')
  await opened[Symbol.asyncDispose]()
  await mount.clock.advance(limits.mountPointIdleMs)
  assert.deepEqual(keysOf(fixture.store, 'pins/'), [], 'and goes a while after it was closed')
})

test('points of one second bear their ids, and the others their times', async () => {
  const fixture = await mountedFixture()
  const takenAt = new Date('2026-11-21T10:00:00.100Z')
  const [a, b] = [
    await fixture.writePoint({ takenAt, disks: [disk('vda')] }),
    await fixture.writePoint({ takenAt: new Date('2026-11-21T10:00:00.900Z'), disks: [disk('vda')] }),
  ]
  await fixture.writePoint({ takenAt: new Date('2026-11-21T10:00:01Z'), disks: [disk('vda')] })
  await using mount = await mountedPoints(fixture)
  const ids = [a.id, b.id].sort()
  assert.deepEqual(await mount.names('/by-vm/web'), [
    ...ids.map(id => `2026-11-21T10:00:00Z-${id}`),
    '2026-11-21T10:00:01Z',
    'latest',
  ])
})

test('names that are not safe are shown escaped, and lead to their VM', async () => {
  const fixture = await mountedFixture()
  for (const vm of ['a/b', 'a%2Fb', '..', '-rf', 'line\nbreak', 'turn\u202eed', 'Größe 🦙', 'web.example.com'])
    await fixture.writePoint({ vm, disks: [disk('machine/peripheral/vda')] })
  await using mount = await mountedPoints(fixture)
  const names = await mount.names('/by-vm')
  process.stdout.write(`${names.join('  ')}\n`)
  assert.deepEqual(
    [...names].sort(),
    ['%2Drf', '%2E.', 'Größe 🦙', 'a%252Fb', 'a%2Fb', 'line%0Abreak', 'turn%E2%80%AEed', 'web.example.com'].sort(),
  )
  for (const name of names) {
    const { vm } = JSON.parse(await mount.text(`/by-vm/${name}/latest/manifest.json`))
    assert.equal(decodeURIComponent(name), vm)
    assert.deepEqual(await mount.names(`/by-vm/${name}/latest/disks`), ['machine%2Fperipheral%2Fvda.raw'])
  }
})

test('an empty repository is an empty mount', async () => {
  await using mount = await mountedPoints(await mountedFixture())
  assert.deepEqual(await mount.names('/by-vm'), [])
  assert.deepEqual(await mount.names('/by-time'), [])
  assert.equal(await mount.node('/by-vm/web'), undefined)
  assert.equal(await mount.node('/nothing'), undefined)
})
