/** Restore, export and session pins on a real repository in memory. */
import assert from 'node:assert/strict'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { ChunkCache } from '../../../src/cache/chunk-cache.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { seededRandom, systemRandom } from '../../../src/core/random.ts'
import { exportPoint } from '../../../src/recovery/export.ts'
import type { Exporter } from '../../../src/recovery/exporter.ts'
import { mustRun } from '../../../src/recovery/external-tool.ts'
import { restoreDisk } from '../../../src/recovery/restore.ts'
import { metered } from '../../../src/storage/metered.ts'
import { testExporter } from '../../doubles/nbd-exporter.ts'
import { repositoryFixture } from '../../doubles/repository-fixture.ts'

const CHUNK = 4096
const folder = await mkdtemp(path.join(tmpdir(), 'lb-real-'))
after(() => rm(folder, { recursive: true, force: true }))
const fixture = await repositoryFixture({ chunkSize: CHUNK })
const size = 3000 * CHUNK - 100
const disk = new Uint8Array(size)
const writes: [number, Uint8Array][] = []
for (let i = 0; i < 3000; i += i % 7 === 0 ? 1 : 5) {
  const bytes = seededRandom(`${i}`)(Math.min(CHUNK, size - i * CHUNK))
  disk.set(bytes, i * CHUNK)
  writes.push([i * CHUNK, bytes])
}
const point = await fixture.writePoint({
  vm: 'web',
  disks: [
    { name: 'vda', size, writes },
    { name: 'empty', size: 8192, writes: [] },
  ],
})
const options = (name: string) => ({ output: path.join(folder, name), clock: systemClock, random: systemRandom })
const same = (a: Uint8Array, b: Uint8Array) => assert.equal(Buffer.compare(a, b), 0, 'the bytes are those of the disk')
const pins = async () =>
  (await Array.fromAsync(fixture.store.list('pins/'))).map(({ key }) => key.slice('pins/'.length))

test('a disk is restored whole, then onto itself with nothing fetched, then with only the damage mended', async () => {
  const { store, meter } = metered(fixture.store)
  const repository = await fixture.open(store)
  await using opened = await repository.openPoint(point, { pin: 'restore' })
  const at = options('vda.raw')
  const whole = await restoreDisk(opened, 'vda', at)
  same(await readFile(at.output), disk)
  assert.ok(whole.bytesFetched > 0 && whole.bytesWritten < size / 2)
  const before = meter.figures().get.bytes
  const again = await restoreDisk(opened, 'vda', { ...at, onto: true })
  assert.deepEqual([again.bytesWritten, again.bytesFetched], [0, 0])
  assert.equal(meter.figures().get.bytes, before, 'no data was asked of the store')
  const file = await open(at.output, 'r+')
  await file.write(Buffer.from('damage'), 0, 6, writes[40]![0] + 17)
  await file.write(Buffer.from('damage'), 0, 6, size - 6)
  await file.close()
  const mended = await restoreDisk(opened, 'vda', { ...at, onto: true })
  assert.equal(mended.bytesWritten, CHUNK + CHUNK - 100)
  same(await readFile(at.output), disk)
  assert.equal((await restoreDisk(opened, 'empty', options('empty.raw'))).bytesFetched, 0)
})

test('a terabyte of zeros with three chunks in it costs three chunks', async () => {
  const wide = 2 ** 40
  const places = [3 * CHUNK, 2 ** 39 - CHUNK, wide - CHUNK]
  const content = seededRandom('wide')(CHUNK)
  const summary = await fixture.writePoint({
    vm: 'wide',
    disks: [{ name: 'vda', size: wide, writes: places.map(at => [at, content] as const) }],
  })
  await using opened = await fixture.repository.openPoint(summary, { pin: 'restore' })
  const done: number[] = []
  const result = await restoreDisk(opened, 'vda', {
    ...options('wide.raw'),
    progress: progress => done.push(progress.done),
  })
  assert.equal(result.bytesWritten, 3 * CHUNK)
  assert.equal(done.at(-1), wide)
  await using file = await open(result.output)
  assert.equal((await file.stat()).size, wide)
  for (const at of places) {
    const bytes = new Uint8Array(CHUNK)
    await file.read(bytes, 0, CHUNK, at)
    same(bytes, content)
  }
})

test('qcow2 is written by qemu-img from an export of ours, and a damaged chunk is named, not a read error', async () => {
  await using opened = await fixture.repository.openPoint(point, { pin: 'restore' })
  const at = { ...options('vda.qcow2'), format: 'qcow2' as const, exporter: testExporter, runDir: folder }
  const result = await restoreDisk(opened, 'vda', at)
  assert.ok(result.bytesFetched > 0 && result.bytesWritten > 0)
  const raw = path.join(folder, 'back.raw')
  await mustRun('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', at.output, raw])
  same((await readFile(raw)).subarray(0, size), disk)
  await assert.rejects(restoreDisk(opened, 'vda', at), { code: 'output-exists' })
  await assert.rejects(restoreDisk(opened, 'vda', { ...at, onto: true }), { code: 'usage' })
  const broken = {
    ...opened,
    disk: (name: string) => {
      const source = opened.disk(name)
      return {
        size: source.size,
        chunkSize: source.chunkSize,
        locate: source.locate.bind(source),
        locateNow: source.locateNow.bind(source),
        fetch: async () => {
          throw Object.assign(new Error('chunk 7 is damaged'), { code: 'corrupt-object' })
        },
      }
    },
  }
  await assert.rejects(
    restoreDisk(broken, 'vda', { ...at, output: path.join(folder, 'no.qcow2') }),
    /chunk 7 is damaged/,
  )
})

test("a session's pin stays when it is kept, is taken up again, and goes when it is dropped", async () => {
  const { repository } = fixture
  assert.deepEqual(await pins(), [])
  const first = await repository.openPoint(point, { pin: 'session' })
  first.keepPin()
  await first[Symbol.asyncDispose]()
  assert.deepEqual(await pins(), [first.pinId])
  const again = await repository.openPoint(point, { pin: 'session', pinId: first.pinId })
  assert.equal(again.pinId, first.pinId)
  await again[Symbol.asyncDispose]()
  assert.deepEqual(await pins(), [first.pinId])
  await repository.dropPin(first.pinId!)
  const renewed = await repository.openPoint(point, { pin: 'session', pinId: first.pinId })
  assert.notEqual(renewed.pinId, first.pinId)
  await renewed[Symbol.asyncDispose]()
  assert.deepEqual(await pins(), [])
})

test('an export is taken down in order: server, images, pin', async () => {
  const order: string[] = []
  const exporter: Exporter = async ({ exports }) => ({
    uris: exports.map(({ name }) => `nbd://${name}`),
    [Symbol.asyncDispose]: async () => {
      order.push('server')
      assert.equal((await pins()).length, 1)
      const target = new Uint8Array(10)
      await exports[0]!.device.readInto(target, 0)
      same(target, disk.subarray(0, 10))
    },
  })
  const request = {
    repository: fixture.repository,
    point,
    exporter,
    cache: new ChunkCache({ maxBytes: 1e6 }),
    listen: { socket: '/nowhere' },
  }
  const read: number[] = []
  const running = await exportPoint({ ...request, onRead: (_disk, bytes) => read.push(bytes) })
  assert.deepEqual(running.uris, ['nbd://vda', 'nbd://empty'])
  await running[Symbol.asyncDispose]()
  assert.deepEqual([order, read, await pins()], [['server'], [10], []])
  await assert.rejects(exportPoint({ ...request, disks: ['vdz'] }), { code: 'no-such-disk' })
  await assert.rejects(
    exportPoint({ ...request, exporter: () => Promise.reject(new Error('address in use')) }),
    /in use/,
  )
  assert.deepEqual(await pins(), [], 'what failed to start leaves no pin')
})
