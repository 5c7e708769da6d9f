/** A verify that was interrupted goes on, and claims no more than it has read. */
import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { VerifyProgress } from '../../../src/cli/verify-progress.ts'
import type { Clock } from '../../../src/core/clock.ts'
import { packId, repositoryId } from '../../../src/core/ids.ts'
import { PlaceSet } from '../../../src/repository/place-set.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { flipBit, keysOf, noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

const repository = repositoryId('ab'.repeat(16))
const pack = packId('01'.repeat(16))
let stateDir: string
before(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'lifeboat-progress-'))
})
after(() => rm(stateDir, { recursive: true }))

let nowMs = Date.UTC(2026, 0, 1)
const clock: Clock = {
  now: () => new Date(nowMs),
  monotonicMs: () => nowMs,
  sleep: () => Promise.reject(new Error('nobody waits here')),
}
const warnings: string[] = []
const load = (asked = 'all 100%', restart = false) =>
  VerifyProgress.load({ stateDir, repository, asked }, { clock, restart, warn: message => warnings.push(message) })
const slots = (proven: PlaceSet) =>
  Array.from({ length: 600 }, (_, slot) => slot).filter(slot => proven.has({ pack, slot }))
const fileName = async () => path.join(stateDir, 'verify', (await readdir(path.join(stateDir, 'verify')))[0] ?? '')

test('what was proven before an interruption is known after it, with the time of the first run', async () => {
  const first = await load()
  assert.equal(first.isResumed, false)
  for (const slot of [0, 7, 8, 500]) first.proven.add({ pack, slot })
  await first.save()
  nowMs += 60_000
  const second = await load()
  assert.deepEqual([second.isResumed, second.began, slots(second.proven)], [true, first.began, [0, 7, 8, 500]])
  second.proven.add({ pack, slot: 9 })
  await second.save()
  assert.deepEqual(slots((await load()).proven), [0, 7, 8, 9, 500])
  assert.equal((await load('web1 100%')).isResumed, false, 'another question begins anew')
  const third = await load()
  await third.finish()
  assert.equal((await load()).isResumed, false)
})

test('a process that is killed loses what it proved since it last saved', async () => {
  const run = await load()
  run.proven.add({ pack, slot: 1 })
  run.tick()
  nowMs += 21_000
  run.tick()
  // Saving goes on behind the caller.
  while (!(await load()).isResumed) await new Promise(resolve => setTimeout(resolve, 5))
  run.proven.add({ pack, slot: 2 })
  run.tick()
  assert.deepEqual(slots((await load()).proven), [1])
  await run.finish()
})

test('a damaged, an old, and a refused record of progress prove nothing', async () => {
  const save = async () => {
    const run = await load()
    run.proven.add({ pack, slot: 3 })
    await run.save()
  }
  await save()
  const good = await readFile(await fileName())
  for (let at = 0; at < good.length; at += 3) {
    const bytes = Buffer.from(good)
    bytes[at]! ^= 4
    await writeFile(await fileName(), bytes)
    assert.equal((await load()).isResumed, false, `byte ${at}`)
    await writeFile(await fileName(), good.subarray(0, at))
    assert.equal((await load()).isResumed, false, `first ${at} bytes`)
  }
  await save()
  nowMs += 7 * 24 * 3_600_000
  assert.equal((await load()).isResumed, false, 'a week old')
  await save()
  assert.equal((await load('all 100%', true)).isResumed, false, '--restart')
  assert.deepEqual(warnings, [])
})

test('the next run reads the rest: nothing twice that was proven, nothing left out', async () => {
  const chunk = 4096
  const size = 1200 * chunk
  const { store, open, writePoint } = await repositoryFixture()
  const point = await writePoint({ disks: [{ name: 'vda', size, writes: [[0, noise('a', size)]] }] })
  const [key = ''] = keysOf(store, 'packs/')
  const stop = new AbortController()
  let reads = 0
  const counted = (limit: number): ObjectStore => ({
    ...store,
    async get(object, range, options) {
      if (object === key && (range?.length ?? 0) > 10_000 && ++reads >= limit) {
        stop.abort(new Error('killed'))
        throw new Error('killed')
      }
      return await store.get(object, range, options)
    },
  })
  const proven = new PlaceSet()
  const request = { points: [point], proven }
  const killed = verifyPoints(await open(counted(2)), { ...request, signal: stop.signal })
  await assert.rejects(killed, /killed/)
  const isProven = (slot: number) => proven.has({ pack: packId(key.slice(-32)), slot })
  const before = Array.from({ length: 1200 }, (_, slot) => slot).filter(isProven)
  assert.ok(before.length < 1200, `${before.length} chunks were proven before it was killed`)
  // Rot where nobody has looked yet is found, rot that came after the look is not claimed to be.
  const unread = Array.from({ length: 1200 }, (_, slot) => slot).find(slot => !isProven(slot)) ?? 0
  flipBit(store, key, unread * (chunk + 20) + 40)
  const rest = await verifyPoints(await open(), request)
  assert.equal(rest.problems.length, 1)
  const nodes = rest.checked - (1200 - before.length - 1)
  assert.ok(nodes > 0 && nodes < 40, `${nodes} nodes are read again`)
  assert.equal(isProven(unread), false, 'what failed is not proven')
})
