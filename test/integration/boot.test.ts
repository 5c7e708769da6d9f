/** A real guest that runs from its point: nothing else is below its disk. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { backupVm } from '../../src/backup/backup-vm.ts'
import { ChunkCache } from '../../src/cache/chunk-cache.ts'
import { systemClock } from '../../src/core/clock.ts'
import { pointId } from '../../src/core/ids.ts'
import { systemRandom } from '../../src/core/random.ts'
import { qemuHypervisor } from '../../src/hypervisor/qemu/qemu-hypervisor.ts'
import { type BootRequest, bootPoint } from '../../src/recovery/boot.ts'
import type { Exporter } from '../../src/recovery/exporter.ts'
import { discardSession, readSession } from '../../src/recovery/session.ts'
import { testExporter } from '../doubles/nbd-exporter.ts'
import { sessionPlace } from '../doubles/session-place.ts'
import { CHUNK, tinyPoint } from '../doubles/tiny-point.ts'
import { connectConsole } from '../guest/console.ts'
import { startTimeOf } from '../guest/process-record.ts'

const { folder, place } = await sessionPlace()
const { image, fixture, point, diskBytes, chunkOffsets, machine } = await tinyPoint()

const request = (session: string, more: Partial<BootRequest> = {}): BootRequest => ({
  ...place,
  repository: fixture.repository,
  point,
  session,
  exporter: testExporter,
  cache: new ChunkCache({ maxBytes: 64 * 1024 * 1024 }),
  ...machine,
  ...more,
})

test('a guest runs from its point, is backed up as an increment on it, and goes on after a stop', async () => {
  const cache = new ChunkCache({ maxBytes: 64 * 1024 * 1024 })
  const pins = async () => (await Array.fromAsync(fixture.store.list('pins/'))).map(({ key }) => key)
  let increment = point.id
  {
    await using boot = await bootPoint(request('one', { cache }))
    assert.ok((boot.secondsToFirstRead ?? 0) > 0)
    const state = await readSession(place.stateDir, 'one')
    assert.deepEqual([state.state, state.point.id, state.qemu?.process?.pid], ['running', point.id, boot.pid])
    using console = await connectConsole(boot.serial)
    await console.waitForPrompt(image.bootTimeoutMs)
    await console.must('dd if=/dev/urandom of=/var/kept bs=64k count=8 2>/dev/null; sync')
    const { bytesFetched } = boot.figures()
    assert.ok(
      bytesFetched > 0 && bytesFetched < (chunkOffsets.length * CHUNK) / 2,
      `${bytesFetched} of ${chunkOffsets.length * CHUNK}`,
    )

    const hypervisor = qemuHypervisor({ qmp: boot.qmp, clock: systemClock, random: systemRandom, fleecingFreeMin: 0 })
    const result = await backupVm({
      vm: 'tiny',
      hypervisor,
      repository: fixture.repository,
      clock: systemClock,
      random: systemRandom,
      kind: 'incremental',
      fleecingDir: path.join(folder, 'f'),
    })
    increment = result.point
    assert.equal(result.kind, 'incremental')
    assert.equal(result.base, point.id)
    assert.equal(result.disks[0]?.name, 'vda')
    assert.equal(result.disks[0]?.reason, undefined)
    assert.ok(result.disks[0]!.bytesRead >= 8 * CHUNK && result.disks[0]!.bytesRead < diskBytes / 4)
    await boot.stop()
    assert.equal(startTimeOf(boot.pid), '')
    assert.ok(!existsSync(path.join(place.stateDir, 'sessions/one/nbd.sock')), 'the server removed its socket')
  }
  const stopped = await readSession(place.stateDir, 'one')
  assert.equal(stopped.state, 'stopped')
  assert.ok((stopped.figures.bytesRead ?? 0) > 0)
  const overlay = stopped.disks[0]!.overlay!.path
  const bitmaps = JSON.parse(execFileSync('qemu-img', ['info', '--output=json', overlay], { encoding: 'utf8' }))[
    'format-specific'
  ].data.bitmaps
  assert.equal(bitmaps.length, 1)
  assert.deepEqual(bitmaps[0].flags, ['auto'], 'the bitmap was stored in order')
  assert.ok(bitmaps[0].name.endsWith(increment))

  await using again = await bootPoint(request('one', { cache, resume: true }))
  using console = await connectConsole(again.serial)
  await console.waitForPrompt(image.bootTimeoutMs)
  assert.equal(await console.must('cat /var/boots; wc -c < /var/kept'), `2\n${8 * CHUNK}`)
  await again.stop()
  assert.deepEqual(await pins(), [`pins/${stopped.point.pin}`], 'a stopped session keeps its point')
  await discardSession(place, 'one', ({ point: { pin } }) => fixture.repository.dropPin(pin ?? ''))
  assert.deepEqual(await pins(), [])
  assert.deepEqual(await readdir(path.join(place.stateDir, 'sessions')), [])
})

test('a boot that fails leaves no session, no process, no pin and says why', async () => {
  await assert.rejects(bootPoint(request('wrong', { extra: ['-no-such-option'] })), /no-such-option/)
  await assert.rejects(bootPoint(request('missing', { program: 'qemu-system-none' })), { code: 'tool-missing' })
  await assert.rejects(bootPoint(request('aborted', { signal: AbortSignal.abort(new Error('Ctrl-C')) })), /Ctrl-C/)
  assert.deepEqual(await readdir(path.join(place.stateDir, 'sessions')), [])
  const pins: string[] = []
  for await (const { key } of fixture.store.list('pins/')) pins.push(key)
  assert.deepEqual(pins, [])
})

test('clients of the server below a guest may ask what differs from an older point', async () => {
  const older = { points: [pointId('00000000000000aa')], changedSince: async () => [{ offset: CHUNK, length: CHUNK }] }
  const exporter: Exporter = async ({ exports: [disk] }) => {
    const [context] = disk?.contexts ?? []
    const extents = await Array.fromAsync(context?.extents({ offset: 0, length: 2 * CHUNK }) ?? [])
    throw new Error(`${context?.name} ${extents.map(({ length, flags }) => `${length}:${flags}`)}`)
  }
  const said = new RegExp(`^Error: x-lifeboat:changed-since:00000000000000aa ${CHUNK}:0,${CHUNK}:1$`)
  await assert.rejects(bootPoint(request('differences', { older, exporter })), said)
})

test("the guest's 4 KiB writes fetch nothing from the repository", async () => {
  const cache = new ChunkCache({ maxBytes: 64 * 1024 * 1024 })
  // Not started: QEMU with a guest that halts, and writes put into the overlay by qemu-io over our export.
  await using boot = await bootPoint(
    request('writes', { cache, kernel: undefined, append: undefined, extra: ['-no-reboot'] }),
  )
  await boot.stop()
  const state = await readSession(place.stateDir, 'writes')
  const { exportPoint } = await import('../../src/recovery/export.ts')
  await using exported = await exportPoint({
    repository: fixture.repository,
    point,
    exporter: testExporter,
    cache: new ChunkCache({ maxBytes: 1e7 }),
    listen: { socket: state.sockets.nbd! },
  })
  const { mustRun } = await import('../../src/recovery/external-tool.ts')
  await mustRun('qemu-io', [
    '-f',
    'qcow2',
    '-c',
    `write -P 7 ${chunkOffsets.at(-3)! + 4096} 4k`,
    '-c',
    `write -P 7 ${chunkOffsets.at(-9)! + 8192} 8k`,
    state.disks[0]!.overlay!.path,
  ])
  assert.equal(exported.disks[0]!.stats().chunksFetched, 0)
})
