/** Committing and moving a session of `export --writable`, with clients that write meanwhile. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readFile, rename } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { ChunkCache } from '../../src/cache/chunk-cache.ts'
import { openOverlays } from '../../src/cli/overlays.ts'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { pointId } from '../../src/core/ids.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { askSession } from '../../src/recovery/control-client.ts'
import type { Fields } from '../../src/recovery/control-protocol.ts'
import { type ExportSessionRequest, exportSession, overlayFolder } from '../../src/recovery/export-session.ts'
import { controlSocketOf, readSession } from '../../src/recovery/session.ts'
import { readBack } from '../doubles/memory-repository.ts'
import { testExporter } from '../doubles/nbd-exporter.ts'
import { noise, repositoryFixture } from '../doubles/repository-fixture.ts'
import { exitCommands, sessionPlace } from '../doubles/session-place.ts'

const CHUNK = 64 * 1024
const SIZE = 64 * CHUNK
const { folder, place } = await sessionPlace()

/** Two disks of a VM as arrays, its point, and a session that serves the point to writers. */
async function servedDisks(name: string) {
  const fixture = await repositoryFixture({ chunkSize: CHUNK })
  const models = new Map(['vda', 'vdb'].map(disk => [disk, Buffer.from(noise(`${name} ${disk}`, SIZE))] as const))
  const disks = [...models].map(([disk, model]) => ({
    name: disk,
    size: SIZE,
    writes: [[0, new Uint8Array(model)]] as [number, Uint8Array][],
  }))
  const point = await fixture.writePoint({ vm: 'served', disks })
  const request: ExportSessionRequest = {
    ...place,
    repository: fixture.repository,
    point,
    session: name,
    writable: true,
    openOverlays,
    exporter: testExporter,
    cache: new ChunkCache({ maxBytes: 16 * CHUNK }),
    commands: exitCommands,
  }
  const connect = async (disk: string) => {
    const { serve } = await readSession(place.stateDir, name)
    assert.ok(serve && 'socket' in serve.listen)
    return connectNbd({ socket: serve.listen.socket, exportName: disk, clock: systemClock })
  }
  return { fixture, models, point, request, connect }
}

async function ask(session: string, command: string, request: Fields = {}): Promise<Fields> {
  const socket = controlSocketOf(place.stateDir, session, await readSession(place.stateDir, session))
  return askSession({ socket, command, request, clock: systemClock })
}

test('a session is committed while its client writes, goes on against the new point, and is committed again', async () => {
  const { fixture, models, point, request, connect } = await servedDisks('written')
  const vda = models.get('vda')!
  const put = async (client: Awaited<ReturnType<typeof connect>>, fill: number, offset: number, length: number) => {
    await client.write(new Uint8Array(length).fill(fill), offset)
    vda.fill(fill, offset, offset + length)
  }
  {
    await using session = await exportSession(request)
    await using client = await connect('vda')
    await put(client, 1, 5 * CHUNK + 100, 3000)
    await put(client, 2, 60 * CHUNK, 2 * CHUNK)
    const atTheInstant = Buffer.from(vda)
    let stop = false
    let count = 0
    // To a place that is written again and again, so that what the point holds there is one of its states.
    const writing = (async () => {
      for (; !stop; count++) await put(client, 10 + (count % 200), 20 * CHUNK, 4096)
    })()
    const first = await ask('written', 'commit')
    stop = true
    await writing
    assert.ok(count > 0)
    const id = pointId(String(first.point))
    const stored = Buffer.from(await readBack(fixture.repository, id, 'vda'))
    const hot = stored.subarray(20 * CHUNK, 20 * CHUNK + 4096)
    assert.ok(
      hot.every(byte => byte === hot[0]),
      'a block of the instant is one write',
    )
    hot.copy(atTheInstant, 20 * CHUNK)
    assert.ok(
      stored.equals(atTheInstant) || stored.subarray(0, 20 * CHUNK).equals(atTheInstant.subarray(0, 20 * CHUNK)),
    )
    assert.ok(Buffer.from(await readBack(fixture.repository, id, 'vdb')).equals(models.get('vdb')!))
    const read = (first.disks as { bytesRead: number }[]).map(({ bytesRead }) => bytesRead)
    assert.ok(read[0]! <= 6 * CHUNK && read[1] === 0, `${read}`)
    const state = await readSession(place.stateDir, 'written')
    assert.equal(state.point.id, id)

    const seen = Buffer.alloc(SIZE)
    await client.readInto(seen, 0)
    assert.ok(seen.equals(vda), 'the client sees what it wrote, over the new point')
    await put(client, 3, 0, CHUNK)
    const second = await ask('written', 'commit')
    assert.ok(Buffer.from(await readBack(fixture.repository, pointId(String(second.point)), 'vda')).equals(vda))
    const manifest = await fixture.repository.manifest(
      (await fixture.repository.points()).find(({ id }) => id === second.point)!,
    )
    assert.deepEqual([manifest.kind, manifest.disks[0]?.base], ['incremental', id])
    assert.notEqual(id, point.id)
    const [again] = second.disks as { bytesRead: number }[]
    assert.ok(again!.bytesRead <= 3 * CHUNK, `${again!.bytesRead}: what the first commit stored is not read again`)
    await session.stop()
  }
  const state = await readSession(place.stateDir, 'written')
  const [last] = (await fixture.repository.points()).filter(({ id }) => id === state.point.id)
  await using again = await exportSession({ ...request, point: last!, resume: true })
  await using client = await connect('vda')
  const seen = Buffer.alloc(SIZE)
  await client.readInto(seen, 0)
  assert.ok(seen.equals(vda))
  await again.stop()
})

test('a session moves to files while its clients write, which then have to open those', async () => {
  const { models, request, connect } = await servedDisks('moved')
  await using session = await exportSession(request)
  await using client = await connect('vda')
  const targets = ['vda', 'vdb'].map(disk => ({ disk, path: path.join(folder, `new-${disk}.raw`), format: 'raw' }))
  const vda = models.get('vda')!
  await client.write(new Uint8Array(CHUNK).fill(1), 3 * CHUNK)
  vda.fill(1, 3 * CHUNK, 4 * CHUNK)
  await client.zero({ offset: 8 * CHUNK, length: 2 * CHUNK })
  vda.fill(0, 8 * CHUNK, 10 * CHUNK)
  let refused: unknown
  let acknowledged = 0
  const writing = (async () => {
    for (let i = 0; refused === undefined; i = (i + 1) % 60) {
      const bytes = new Uint8Array(5000).fill(20 + (acknowledged % 200))
      try {
        await client.write(bytes, i * CHUNK + 777)
        vda.set(bytes, i * CHUNK + 777)
        acknowledged++
      } catch (error) {
        refused = error
      }
    }
  })()
  while (acknowledged < 5) await systemClock.sleep(1)
  const result = await ask('moved', 'migrate', { targets })
  await writing
  assert.ok(isLifeboatError(refused, 'nbd-io') || isLifeboatError(refused), `${refused}`)
  assert.match(String(result.warnings), /clients must open .*new-vda\.raw instead of vda/)
  assert.ok((await readFile(targets[0]!.path)).equals(vda), `every one of ${acknowledged} acknowledged writes is there`)
  assert.ok((await readFile(targets[1]!.path)).equals(models.get('vdb')!))
  await session.ended
  const state = await readSession(place.stateDir, 'moved')
  assert.equal(state.state, 'migrated')
  assert.ok(!existsSync(state.disks[0]!.overlay!.path))
})

test('what a crash cost the overlays is told when the session goes on', async () => {
  const { request, connect } = await servedDisks('crashed')
  const warning = 'the overlay was not closed: 4 KiB are lost'
  const tellingOverlays: typeof openOverlays = async asked => ({ ...(await openOverlays(asked)), warning })
  await using session = await exportSession({ ...request, openOverlays: tellingOverlays })
  await using client = await connect('vda')
  await client.write(new Uint8Array(100).fill(9), 50)
  assert.deepEqual(session.warnings, [warning])
  await session.stop()
})

test('a move that cannot be made leaves the session to its clients', async () => {
  const { models, request, connect } = await servedDisks('stays')
  await using session = await exportSession(request)
  await using client = await connect('vdb')
  const to = (disk: string, file: string, format = 'raw') => ({ disk, path: path.join(folder, file), format })
  const refused = (targets: readonly object[], code: string) =>
    assert.rejects(ask('stays', 'migrate', { targets }), error => {
      assert.ok(isLifeboatError(error), `${error}`)
      assert.equal(error.code, code)
      return true
    })
  await refused([to('vda', 'a.raw')], 'usage')
  await refused([to('vda', 'a.raw'), to('vdb', 'b.qcow2', 'qcow2')], 'usage')
  await refused([to('vda', 'a.raw'), to('vdb', 'b.raw'), to('vdc', 'c.raw')], 'no-such-disk')
  await refused([to('vda', 'a.raw'), to('vdb', 'no/such/folder/b.raw')], 'output-failed')
  assert.ok(!existsSync(path.join(folder, 'a.raw')))
  await client.write(new Uint8Array(100).fill(9), 50)
  models.get('vdb')!.fill(9, 50, 150)
  const seen = Buffer.alloc(SIZE)
  await client.readInto(seen, 0)
  assert.ok(seen.equals(models.get('vdb')!))
  await session.stop()
})

test('a commit is one instant over all disks, and so is a move', async () => {
  const { fixture, request, connect } = await servedDisks('ordered')
  await using _session = await exportSession(request)
  await using vda = await connect('vda')
  await using vdb = await connect('vdb')
  let refused = false
  let written = 0
  // A number to the one, and when that is acknowledged the same to the other.
  const counting = (async () => {
    while (!refused) {
      const number = Buffer.alloc(512)
      number.writeUInt32LE(++written)
      try {
        await vda.write(number, 5 * CHUNK)
        await vdb.write(number, 9 * CHUNK)
      } catch {
        refused = true
      }
    }
  })()
  const numbersOf = (a: Uint8Array, b: Uint8Array) => [
    Buffer.from(a).readUInt32LE(5 * CHUNK),
    Buffer.from(b).readUInt32LE(9 * CHUNK),
  ]
  const together = ([first = 0, second = 0]: readonly number[]) => first === second || first === second + 1
  for (let last = 0, i = 0; i < 3; i++) {
    while (written < last + 20) await systemClock.sleep(1)
    last = written
    const id = pointId(String((await ask('ordered', 'commit')).point))
    const numbers = numbersOf(
      await readBack(fixture.repository, id, 'vda'),
      await readBack(fixture.repository, id, 'vdb'),
    )
    assert.ok(together(numbers) && numbers[0]! >= last - 1, `${numbers}, after ${last}`)
  }
  const targets = ['vda', 'vdb'].map(disk => ({ disk, path: path.join(folder, `at-${disk}.raw`), format: 'raw' }))
  await ask('ordered', 'migrate', { targets })
  await counting
  const [a, b] = await Promise.all(targets.map(target => readFile(target.path)))
  assert.ok(together(numbersOf(a!, b!)), `${numbersOf(a!, b!)}`)
})

test('a move keeps to the rate that it was given', async () => {
  const { models, request, connect } = await servedDisks('paced')
  await using session = await exportSession(request)
  await using _client = await connect('vda')
  const began = performance.now()
  const targets = ['vda', 'vdb'].map(disk => ({ disk, path: path.join(folder, `paced-${disk}.raw`), format: 'raw' }))
  await ask('paced', 'migrate', { targets, bytesPerSecond: SIZE / 2 })
  await session.ended
  assert.ok((await readFile(targets[0]!.path)).equals(models.get('vda')!))
  const tookMs = performance.now() - began
  assert.ok(tookMs > 3_900, `two disks at half a disk a second took ${tookMs} ms`)
})

test("an overlay in the wrong session's folder is refused, and served where it belongs", async () => {
  const begin = async (name: string, fill: number) => {
    const { request, connect } = await servedDisks(name)
    await using session = await exportSession(request)
    await using client = await connect('vda')
    await client.write(new Uint8Array(CHUNK).fill(fill), 0)
    await session.stop()
    return { request: { ...request, resume: true }, connect, overlay: overlayFolder(sessionFolder(name)) }
  }
  const sessionFolder = (name: string) => path.join(place.stateDir, 'sessions', name)
  const one = await begin('owner', 1)
  const other = await begin('stranger', 2)
  const swap = async () => {
    const aside = path.join(folder, 'aside')
    await rename(one.overlay, aside)
    await rename(other.overlay, one.overlay)
    await rename(aside, other.overlay)
  }
  await swap()
  await assert.rejects(exportSession(one.request), (error: unknown) => {
    assert.ok(isLifeboatError(error, 'usage'), String(error))
    assert.match(
      error.message,
      /lies over served of session stranger, begun .*, not over served of session owner, begun/,
    )
    return true
  })
  await swap()
  await using _session = await exportSession(one.request)
  await using client = await one.connect('vda')
  const bytes = Buffer.alloc(CHUNK)
  await client.readInto(bytes, 0)
  assert.ok(bytes.equals(Buffer.alloc(CHUNK, 1)))
})
