import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import {
  type BootTrace,
  decodeTouches,
  encodeTouches,
  latestTrace,
  putTrace,
  type Touch,
} from '../../../src/repository/boot-trace.ts'
import { keysOf, newMemoryRepository, openMemoryRepository, pointNumber } from '../../doubles/memory-repository.ts'

const random = seededRandom('traces')
const at = (minute: number) => ({ now: new Date(Date.UTC(2026, 10, 22, 5, minute)), random })
const trace = (touches: readonly Touch[]): BootTrace => ({
  point: pointNumber(1),
  chunkSize: 4096,
  disks: ['vda', 'vdb'],
  touches,
})

test('touches come back as they were, and a boot in order takes a byte a chunk', () => {
  const bytes = random(4000)
  const wild: Touch[] = Array.from({ length: 1000 }, (_, i) => ({
    disk: i % 3,
    chunk: Buffer.from(bytes).readUInt32LE(i * 4) * (i % 7 === 0 ? 4096 : 1),
  }))
  assert.deepEqual(decodeTouches(encodeTouches(wild, 3), 3), wild)
  const inOrder: Touch[] = Array.from({ length: 500 }, (_, chunk) => ({ disk: 1, chunk }))
  assert.equal(encodeTouches(inOrder, 2).length, 500)
  assert.deepEqual(decodeTouches(encodeTouches([], 1), 1), [])
})

test('what no encoder writes is no trace: a cut, a place before the disk, too many', () => {
  const whole = encodeTouches([{ disk: 0, chunk: 1000 }], 1)
  assert.equal(decodeTouches(whole.subarray(0, -1), 1), undefined)
  assert.equal(decodeTouches(Uint8Array.of(1), 1), undefined, 'chunk -1')
  assert.equal(decodeTouches(new Uint8Array(9).fill(0xff), 1), undefined)
  assert.equal(decodeTouches(new Uint8Array(limits.traceTouchesMax + 1), 1), undefined)
  assert.equal(decodeTouches(new Uint8Array(limits.traceTouchesMax), 1)?.length, limits.traceTouchesMax)
})

test('the newest trace of a VM counts, and its older ones go', async () => {
  const store = await newMemoryRepository()
  const { control } = (await openMemoryRepository(store, { seed: 'a' })).reading
  assert.equal(await latestTrace(control, 'web'), undefined)
  await putTrace(control, 'web', trace([{ disk: 0, chunk: 1 }]), at(1))
  await putTrace(control, 'db', trace([{ disk: 1, chunk: 7 }]), at(2))
  await putTrace(control, 'web', trace([{ disk: 0, chunk: 2 }]), at(3))
  assert.deepEqual(await latestTrace(control, 'web'), trace([{ disk: 0, chunk: 2 }]))
  assert.deepEqual(await latestTrace(control, 'db'), trace([{ disk: 1, chunk: 7 }]))
  assert.equal(keysOf(store, 'traces/').length, 2)
})

test('a trace that was damaged is passed over for an older one, and for none', async () => {
  const store = await newMemoryRepository()
  const { control } = (await openMemoryRepository(store, { seed: 'b' })).reading
  await putTrace(control, 'web', trace([{ disk: 0, chunk: 1 }]), at(1))
  const [good = ''] = keysOf(store, 'traces/')
  const newer = good.replace('T0501', 'T0502')
  assert.notEqual(newer, good)
  // A copy under another name does not authenticate: the name is sealed in.
  await store.put(newer, [await store.get(good)])
  assert.equal((await latestTrace(control, 'web'))?.touches.length, 1)
  await store.delete([good])
  assert.equal(await latestTrace(control, 'web'), undefined)
})
