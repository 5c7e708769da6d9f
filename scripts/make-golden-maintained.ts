/**
 * Made test/golden/format-1-maintained once: what years of maintenance leave behind. `repository` has rewritten packs, repair
 * objects, epochs, audit, policies, a hold, and points that are forgotten, void or were never finished; `locked` is the copy of a
 * bucket with locks and its ledger. Never run it again, like make-golden.ts.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { hex, type PointId, pointId } from '../src/core/ids.ts'
import { seededRandom } from '../src/core/random.ts'
import { formatKeyFile } from '../src/crypto/key-file.ts'
import type { Credential } from '../src/crypto/keys.ts'
import { startEpochs } from '../src/maintenance/epochs.ts'
import { forgetPoints } from '../src/maintenance/forget.ts'
import { collectGarbage } from '../src/maintenance/gc.ts'
import { addHold } from '../src/maintenance/hold.ts'
import { renewLocks } from '../src/maintenance/lock-renewal.ts'
import { maintenanceContext } from '../src/maintenance/maintenance.ts'
import { setPolicy } from '../src/maintenance/policy.ts'
import { loadPipeline } from '../src/native/native.ts'
import { initRepository } from '../src/repository/init.ts'
import type { LockPolicy } from '../src/repository/lock-policy.ts'
import { markDamaged } from '../src/repository/mark-damaged.ts'
import { fenceKey } from '../src/repository/object-keys.ts'
import { openRepository } from '../src/repository/open.ts'
import { verifyPoints } from '../src/repository/verify.ts'
import { filesystemStore } from '../src/storage/filesystem.ts'
import { type MemoryStore, memoryStore } from '../src/storage/memory.ts'
import { manualClock } from '../test/doubles/manual-clock.ts'
import { summaryOf } from '../test/doubles/memory-repository.ts'
import { flipBit, keysOf } from '../test/doubles/repository-fixture.ts'

const folder = join(import.meta.dirname, '..', 'test', 'golden', 'format-1-maintained')
const there = await stat(folder).then(
  () => true,
  () => false,
)
if (there) throw new Error(`${folder} exists: golden repositories are never made again`)

const C = 4096
const HOUR_MS = 3_600_000
const secret = seededRandom('golden maintained')(32)
const credential: Credential = { kind: 'file', secret }
const clock = manualClock('2026-11-21T12:00:00.000Z')

async function place(name: string, lock?: LockPolicy) {
  const random = seededRandom(`golden ${name}`)
  const store = memoryStore({ clock, versioned: lock !== undefined, objectLock: lock !== undefined })
  await initRepository({ store, credential, chunkSize: C, lock, random, clock })
  // Short, so that nobody who collects a copy waits for the lease of the writer that died.
  const given = { credential, random, clock, host: 'golden', pipeline: loadPipeline(), leaseExpiryMs: 5_000 }
  const open = () => openRepository({ ...given, store })
  const repository = await open()
  const images = new Map<string, Uint8Array>()
  const points: { point: PointId; vm: string; sha256: string }[] = []
  let minute = 0
  const begin = (vm: string, base: PointId | undefined) => {
    const takenAt = new Date(Date.UTC(2026, 10, 21, 10, minute++))
    const bases = base ? [base] : []
    return repository.beginPoint({ vm, point: pointId(hex(random(8))), takenAt, kind: 'backup', bases })
  }
  /** A whole image again, or new contents of some chunks, each of which shrinks to an eighth. */
  async function write(vm: string, base: PointId | undefined, from: number, to: number, again?: Uint8Array) {
    const bytes = (again ?? images.get(vm) ?? new Uint8Array(100 * C)).slice()
    if (!again) for (let at = from * C; at < to * C; at += C) bytes.set(random(512), at)
    await using writer = await begin(vm, base)
    const disk = await writer.disk({ name: 'vda', size: bytes.length, base, description: { bus: 'virtio' } })
    for (let at = from * C; at < to * C; at += C) await disk.write(at, bytes.slice(at, at + C))
    await disk.finish({ bytesRead: 0 })
    images.set(vm, bytes)
    const kind = base ? 'incremental' : 'full'
    const { point } = await writer.commit({ kind, consistency: 'crash', description: {}, omitted: [] })
    points.push({ point, vm, sha256: createHash('sha256').update(bytes).digest('hex') })
    return point
  }
  const context = maintenanceContext(repository, 'keeper@golden')
  return { store, repository, context, open, begin, write, images, points }
}

async function maintained() {
  const { store, repository, context, open, begin, write, images, points } = await place('maintained')
  const { control } = repository.reading
  await setPolicy(context, undefined, { keepDaily: 7, keepWeekly: 4, timeZone: 'Europe/Berlin' })
  await setPolicy(context, 'web', { keepLast: 30 })

  const web = await write('web', undefined, 0, 100)
  const second = await write('web', web, 0, 40)
  const third = await write('web', second, 20, 70)
  await write('other', undefined, 0, 10)
  const forget = async (point: PointId) => {
    await forgetPoints(context, [await summaryOf(repository, point)], { why: 'golden' })
    points.splice(
      points.findIndex(known => known.point === point),
      1,
    )
  }
  // Packs are rewritten, and those again.
  for (const point of [web, second]) {
    await forget(point)
    await collectGarbage(context, { graceMs: 0 })
  }
  const rewritten = keysOf(store, 'packs/').filter(key => key.includes('.'))
  assert.ok(rewritten.length > 0)

  await startEpochs(context)
  const older = new Set(keysOf(store, 'meta/'))
  const fourth = await write('web', third, 90, 100)

  // A record and a tree node rot; a backup that still holds their contents puts repair objects beside them.
  const [data = ''] = rewritten
  const meta = keysOf(store, 'meta/').find(key => !older.has(key)) ?? ''
  flipBit(store, data, 30)
  flipBit(store, meta, 30)
  const harmed = await open()
  const listed = await harmed.points()
  const result = await verifyPoints(harmed, { points: listed })
  assert.deepEqual(new Set(result.problems.map(({ object }) => object)), new Set([data, meta]))
  const whole = listed.map(({ id }) => id)
  await markDamaged(harmed, { result, whole, isAll: true, who: 'keeper@golden', now: clock.now() })
  const before = new Set(store.snapshot().keys())
  await write('web', undefined, 0, 100, images.get('web'))
  const repairs = [...store.snapshot().keys()].filter(key => !before.has(key) && /^(packs|meta)\/.*\./.test(key))
  assert.ok(repairs.some(key => key.startsWith('packs/')) && repairs.some(key => key.startsWith('meta/')), `${repairs}`)
  const healed = await open()
  assert.deepEqual((await verifyPoints(healed, { points: await healed.points() })).problems, [])

  const hold = await addHold(context, await summaryOf(repository, fourth), 'audit 2026')
  // Forgotten and not collected, void, and of a host that died.
  const gone = await write('other', undefined, 0, 20)
  await write('other', gone, 20, 25)
  await forget(gone)
  const fenced = await write('void', undefined, 0, 3)
  points.pop()
  const { lease } = await repository.manifest(await summaryOf(repository, fenced))
  const manifest = (await summaryOf(repository, fenced)).key
  await control.put('fence', fenceKey(lease, '00000000000000cc'), { who: 'gc@golden', when: 'then', manifest })
  const dead = await begin('dead', undefined)
  const disk = await dead.disk({ name: 'vda', size: C, description: {} })
  await disk.write(0, new Uint8Array(C).fill(1))

  return { store, repository: repository.id, points, forgotten: gone, void: fenced, hold, rewritten, repairs }
}

async function locked() {
  const { store, repository, context, write, points } = await place('locked', {
    mode: 'governance',
    forMs: 4 * HOUR_MS,
    renewEveryMs: HOUR_MS,
  })
  await setPolicy(context, undefined, { keepLast: 30 })
  const first = await write('web', undefined, 0, 20)
  await addHold(context, await summaryOf(repository, first), 'audit 2026')
  await clock.advance(2 * HOUR_MS)
  const { extended } = await renewLocks(context)
  assert.ok(extended > 0)
  await write('web', first, 5, 9)
  return { store, repository: repository.id, points }
}

async function save(name: string, store: MemoryStore): Promise<void> {
  await mkdir(join(folder, name), { recursive: true })
  await using target = filesystemStore(join(folder, name))
  for (const [key, { bytes }] of store.snapshot()) await target.put(key, [bytes])
}

const [one, other] = [await maintained(), await locked()]
await save('repository', one.store)
await save('locked', other.store)
await writeFile(join(folder, 'key'), formatKeyFile(secret, ['A test key: it protects nothing.']))
const expected = { maintained: { ...one, store: undefined }, locked: { ...other, store: undefined } }
await writeFile(join(folder, 'expected.json'), `${JSON.stringify(expected, null, 2)}\n`)
// The lease of the writer that died is refreshed no more.
process.exit(0)
