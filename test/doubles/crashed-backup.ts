/** A backup that ends at its k-th change of the store, by death or by a failure, and what must be true afterwards. */
import assert from 'node:assert/strict'
import { LifeboatError } from '../../src/core/errors.ts'
import { seededRandom } from '../../src/core/random.ts'
import type { Pipeline } from '../../src/native/pipeline.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { memoryStore, type StoredObject } from '../../src/storage/memory.ts'
import { intercepted, type StoreRequest } from './intercepted-store.ts'
import {
  type BackupInput,
  backup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
} from './memory-repository.ts'

export interface StoryOptions {
  readonly seed: string
  readonly chunkSize: number
  /** Of new content in the second disk of point 3. */
  readonly newChunks: number
  readonly pipeline?: Pipeline
}

interface Story {
  readonly pipeline?: Pipeline
  readonly start: ReadonlyMap<string, StoredObject>
  readonly images: readonly Uint8Array[]
  readonly input: BackupInput
}

/** Points 1 and 2 are there; point 3 is about to be written, upon 2, with a disk that grows and one that is new. */
async function story({ seed, chunkSize: C, newChunks, pipeline }: StoryOptions): Promise<Story> {
  const random = seededRandom(seed)
  const store = await newMemoryRepository({ chunkSize: C })
  const repository = await openMemoryRepository(store, { seed, pipeline })
  const first = random(300 * C)
  const second = first.slice()
  second.set(random(20 * C), 100 * C)
  const third = new Uint8Array(350 * C - 17)
  third.set(second)
  third.set(random(30 * C), 290 * C)
  const at = (offset: number, length: number) => [{ offset: offset * C, length: length * C }]
  await backup(repository, { number: 1, disks: [{ name: 'vda', image: first }] })
  await backup(repository, {
    number: 2,
    disks: [{ name: 'vda', image: second, base: pointNumber(1), changed: at(100, 20) }],
  })
  const disks = [
    { name: 'vda', image: third, base: pointNumber(2), changed: at(290, 30) },
    { name: 'vdb', image: new Uint8Array(Buffer.concat([first.subarray(0, 50 * C), random(newChunks * C)])) },
  ]
  return { pipeline, start: store.snapshot(), images: [first, second, third], input: { number: 3, disks } }
}

export const endings = ['dies before', 'dies after', 'fails before', 'answer lost'] as const
export type Ending = (typeof endings)[number]

/** Runs the backup until change `k` of the store; gives what survives and the number of changes that were made. */
async function run({ start, input, pipeline }: Story, k: number, ending: Ending) {
  const store = memoryStore({ entries: start })
  let changes = 0
  const numbers = new Map<StoreRequest, number>()
  let isDead = false
  const gone = () => new LifeboatError('store-unreachable', 'the host died')
  const repository = await openMemoryRepository(
    intercepted(store, {
      before(request) {
        if (isDead) throw gone()
        if (request.verb !== 'put' && request.verb !== 'delete') return
        numbers.set(request, ++changes)
        if (changes !== k || !ending.endsWith('before')) return
        isDead = ending === 'dies before'
        throw gone()
      },
      after(request) {
        if (isDead) throw gone()
        if (numbers.get(request) !== k || ending.endsWith('before')) return
        isDead = ending === 'dies after'
        throw gone()
      },
    }),
    { seed: `run ${k}`, pipeline },
  )
  let isCommitted = false
  try {
    await backup(repository, input)
    isCommitted = true
  } catch (error) {
    assert.match(String(error), /the host died/)
  }
  return { store, changes, isCommitted }
}

async function assertWhole(
  repository: OpenedRepository,
  { images, input }: Story,
  isCommitted: boolean,
): Promise<void> {
  const points = (await repository.points()).map(({ id }) => id)
  const isThere = points.includes(pointNumber(3))
  assert.deepEqual(points, [1, 2, 3].slice(0, isThere ? 3 : 2).map(pointNumber))
  if (isCommitted) assert.ok(isThere, 'what was confirmed is there')
  for (const [n, point] of points.entries())
    assert.ok(Buffer.compare(await readBack(repository, point, 'vda'), images[n]!) === 0, `point ${point} differs`)
  if (isThere) {
    const [, vdb] = input.disks
    assert.ok(Buffer.compare(await readBack(repository, pointNumber(3), 'vdb'), vdb!.image) === 0)
  }
}

/** For every k and ending; gives how many changes a whole backup makes. */
export async function crashAtEveryChange(options: StoryOptions, ending: Ending): Promise<number> {
  const tale = await story(options)
  const { pipeline } = options
  const total = (await run(tale, Number.POSITIVE_INFINITY, ending)).changes
  let commits = 0
  for (let k = 1; k <= total; k++) {
    const { store, isCommitted } = await run(tale, k, ending)
    if (isCommitted) commits++
    const repository = await openMemoryRepository(store, { seed: `after ${k}`, pipeline })
    await assertWhole(repository, tale, isCommitted)
    if (!ending.startsWith('dies') && !isCommitted) assert.deepEqual(keysOf(store, 'leases/'), [])
    // The next backup builds upon whatever is there.
    const newest = (await repository.points()).at(-1)!.id
    const disks = [{ ...tale.input.disks[0]!, base: newest, changed: undefined }]
    const manifest = await backup(repository, { number: 4, disks })
    assert.ok(manifest.sequence >= 3)
    assert.ok(Buffer.compare(await readBack(repository, pointNumber(4), 'vda'), tale.images[2]!) === 0)
  }
  // Only the end of the lease comes after the commit; a lost answer to the manifest is found out.
  const expected = { 'dies before': 1, 'dies after': 1, 'fails before': 2, 'answer lost': 2 }
  assert.equal(commits, expected[ending])
  return total
}

export interface TornTally {
  readonly objects: number
  readonly tried: number
}

/**
 * A host dies just before its manifest, and a store that was not synced keeps only a part of what it stored: each object at each
 * length, one after the other. The next host backs up the same contents, which it would find there: nothing torn is relied upon.
 */
export async function tearEverything(options: StoryOptions): Promise<TornTally> {
  const told = await story(options)
  // Upon no base, so that what others stored is looked for from the first chunk on.
  const disks = told.input.disks.map(({ name, image }) => ({ name, image }))
  const tale = { ...told, input: { ...told.input, disks } }
  const { pipeline } = options
  const whole = await run(tale, Number.POSITIVE_INFINITY, 'dies before')
  // The last two changes are the manifest and the end of the lease.
  const { store: left } = await run(tale, whole.changes - 1, 'dies before')
  const survived = left.snapshot()
  const unfinished = [...survived.keys()].filter(key => !tale.start.has(key))
  assert.ok(!unfinished.some(key => key.startsWith('points/')) && unfinished.some(key => key.startsWith('packs/')))
  const newBytes = async (entries: ReadonlyMap<string, StoredObject>) => {
    const repository = await openMemoryRepository(memoryStore({ entries }), { seed: 'control', pipeline })
    const manifest = await backup(repository, tale.input)
    return manifest.disks.reduce((sum, { bytesNew }) => sum + bytesNew, 0)
  }
  // Otherwise nothing that is torn could be relied upon.
  assert.ok((await newBytes(survived)) < (await newBytes(tale.start)) / 2, 'what is whole is reused')
  let tried = 0
  for (const key of unfinished) {
    const { bytes } = survived.get(key)!
    for (const length of new Set([0, 1, bytes.length >> 1, bytes.length - 1])) {
      const store = memoryStore({ entries: survived })
      store.tamper(key, bytes.slice(0, length))
      const repository = await openMemoryRepository(store, { seed: `torn ${key} ${length}`, pipeline })
      await backup(repository, tale.input)
      const again = await openMemoryRepository(store, { seed: 'again', pipeline })
      await assertWhole(again, tale, true)
      tried++
    }
  }
  return { objects: unfinished.length, tried }
}
