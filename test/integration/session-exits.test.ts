/** The ways out of a booted session, with a real guest: its point is committed while it runs and while it is stopped, and it moves to production. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { ChunkCache } from '../../src/cache/chunk-cache.ts'
import { systemClock } from '../../src/core/clock.ts'
import { connectQmp } from '../../src/hypervisor/qemu/qmp.ts'
import { type BootRequest, bootPoint } from '../../src/recovery/boot.ts'
import { askSession } from '../../src/recovery/control-client.ts'
import type { Fields } from '../../src/recovery/control-protocol.ts'
import { controlSocketOf, readSession } from '../../src/recovery/session.ts'
import { CommandRunner } from '../../src/recovery/session-commands.ts'
import { openStoppedSession } from '../../src/recovery/stopped-session.ts'
import type { PointSummary } from '../../src/repository/repository.ts'
import { testExporter } from '../doubles/nbd-exporter.ts'
import { exitCommands, sessionPlace } from '../doubles/session-place.ts'
import { tinyPoint } from '../doubles/tiny-point.ts'
import { connectConsole } from '../guest/console.ts'

const { folder, place } = await sessionPlace()
const { image, fixture, point, diskBytes, machine } = await tinyPoint()
const { repository } = fixture
const cache = new ChunkCache({ maxBytes: 64 * 1024 * 1024 })

const request = (session: string, more: Partial<BootRequest> = {}): BootRequest => ({
  ...place,
  repository,
  point,
  session,
  exporter: testExporter,
  cache,
  commands: exitCommands,
  ...machine,
  ...more,
})

/** Of the session's owner, over its socket, as another process would. */
async function ask(session: string, command: string, asked: Fields = {}) {
  const progress: Fields[] = []
  const result = await askSession({
    socket: controlSocketOf(place.stateDir, session, await readSession(place.stateDir, session)),
    command,
    request: asked,
    progress: one => void progress.push(one),
    clock: systemClock,
  })
  return { result, progress }
}

async function pointOf(result: Fields): Promise<PointSummary> {
  const found = (await repository.points({ vm: 'tiny' })).find(({ id }) => id === result.point)
  assert.ok(found, `point ${result.point} is listed`)
  return found
}

const pinned = async () => {
  const keys: string[] = []
  for await (const { key } of fixture.store.list('pins/')) keys.push(key.slice('pins/'.length))
  return keys
}

test('committed while it runs and while it stands, the guest goes on against the new points, and moves out', async () => {
  let second: PointSummary
  {
    await using boot = await bootPoint(request('exits'))
    using console = await connectConsole(boot.serial)
    await console.waitForPrompt(image.bootTimeoutMs)
    await console.must('dd if=/dev/urandom of=/var/kept bs=64k count=8 2>/dev/null; sync')
    const first = await ask('exits', 'commit')
    const committed = await pointOf(first.result)
    const manifest = await repository.manifest(committed)
    assert.deepEqual([manifest.kind, manifest.disks[0]?.base], ['incremental', point.id])
    assert.match(String(first.result.warnings), /^the guest could not be frozen/)
    assert.ok(manifest.disks[0]!.bytesRead < diskBytes / 4, 'only what changed is read')
    assert.equal(manifest.description.machine, undefined, 'the machine is the one that the point described')
    const state = await readSession(place.stateDir, 'exits')
    assert.equal(state.point.id, committed.id)
    assert.deepEqual(await pinned(), [state.point.pin], 'the old point may go')
    assert.ok(state.disks[0]?.overlay?.bitmap?.endsWith(committed.id))

    await console.must('echo more >> /var/more; sync')
    await boot.stop()
    const stopped = await openStoppedSession({
      ...place,
      repository,
      point: committed,
      session: 'exits',
      cache,
      openOverlays: () => Promise.reject(new Error('not one of ours')),
    })
    const options = { signal: new AbortController().signal, progress: () => {} }
    second = await pointOf(await new CommandRunner(stopped, exitCommands).run('commit', {}, options))
    await stopped.end('stopped')
    assert.equal((await repository.manifest(second)).disks[0]?.base, committed.id)
  }

  await using boot = await bootPoint(request('exits', { point: second, resume: true }))
  using console = await connectConsole(boot.serial)
  await console.waitForPrompt(image.bootTimeoutMs)
  const sum = await console.must('cat /var/more; sha256sum < /var/kept')
  const target = path.join(folder, 'production.raw')
  const moved = await ask('exits', 'migrate', { targets: [{ path: target }] })
  assert.deepEqual(moved.result.warnings, [])
  assert.deepEqual([...new Set(moved.progress.map(({ phase }) => phase))], ['copy', 'verify'])
  await boot.ended
  const state = await readSession(place.stateDir, 'exits')
  assert.equal(state.state, 'migrated')
  assert.ok(!existsSync(state.disks[0]!.overlay!.path), 'the overlay is gone')
  assert.deepEqual(await pinned(), [])
  await console.must('echo 3 > /proc/sys/vm/drop_caches')
  assert.equal(await console.must('cat /var/more; sha256sum < /var/kept'), sum)
  await console.must('echo after >> /var/more; sync')
  {
    await using qmp = await connectQmp({ socket: boot.qmp, clock: systemClock })
    await qmp.execute('quit').catch(() => undefined)
  }

  // The second point is the VM as it stood when it was stopped.
  await using again = await bootPoint(request('again', { point: second }))
  using other = await connectConsole(again.serial)
  await other.waitForPrompt(image.bootTimeoutMs)
  assert.equal(await other.must('cat /var/more; sha256sum < /var/kept'), sum)
})
