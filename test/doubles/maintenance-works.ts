/** What people and timers do to a directory repository, each so that a host that died in mid of it, or another, does it again. */
import assert from 'node:assert/strict'
import { type Clock, systemClock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { type Random, seededRandom } from '../../src/core/random.ts'
import type { Credential } from '../../src/crypto/keys.ts'
import { startEpochs } from '../../src/maintenance/epochs.ts'
import { forgetPoints } from '../../src/maintenance/forget.ts'
import { collectGarbage } from '../../src/maintenance/gc.ts'
import { addHold, removeHold } from '../../src/maintenance/hold.ts'
import { addKey, type KeyContext, listKeys, removeKey, rotateKey } from '../../src/maintenance/keys.ts'
import { maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { applyPrune, planPrune } from '../../src/maintenance/prune.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { listHolds } from '../../src/repository/holds.ts'
import { markDamaged } from '../../src/repository/mark-damaged.ts'
import { type OpenedRepository, openRepository } from '../../src/repository/open.ts'
import type { PointSummary } from '../../src/repository/repository.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { backup, pointNumber, summaryOf } from './memory-repository.ts'

export const CHUNK = 4096

/** A host that is about to work. */
export interface Worker {
  readonly store: ObjectStore
  readonly random: Random
  readonly clock?: Clock
}

export const keyOf = (byte: number): Credential => ({ kind: 'file', secret: new Uint8Array(32).fill(byte) })
/** The one that the repository was made with, one that comes and goes, and one that takes the place of the first. */
export const [firstKey, spareKey, laterKey] = [keyOf(7), keyOf(8), keyOf(9)] as const

/** So that nobody waits an hour for a host that was killed. */
const leaseExpiryMs = 5_000

export const openWith = ({ store, random, clock = systemClock }: Worker, credential = firstKey) =>
  openRepository({ store, credential, clock, random, host: 'test-host', pipeline: twinPipeline, leaseExpiryMs })

const tryToOpen = (worker: Worker, credential: Credential): Promise<OpenedRepository | undefined> =>
  openWith(worker, credential).catch(error => {
    if (isLifeboatError(error, 'key-wrong')) return undefined
    throw error
  })

export const opens = async (worker: Worker, credential: Credential): Promise<boolean> =>
  (await tryToOpen(worker, credential)) !== undefined

/** By whichever key opens it. */
export const openAny = async (worker: Worker): Promise<OpenedRepository> =>
  (await tryToOpen(worker, firstKey)) ?? (await openWith(worker, laterKey))

const contextOf = (repository: OpenedRepository) => maintenanceContext(repository, 'jane@box')

/** The image of the point that a work adds: what VM 'vm' had in point 3, and a little more. */
export function nextImage(third: Uint8Array): Uint8Array {
  const image = third.slice()
  image.set(seededRandom('next')(3 * CHUNK), 10 * CHUNK)
  return image
}

/** Gives the number of the point. One that was committed before its host died is there, and the next is made. */
export async function backUpNext(repository: OpenedRepository, image: Uint8Array, hasBase = true): Promise<number> {
  const numbers = (await repository.points({ all: true })).map(({ id }) => Number.parseInt(id, 16))
  const newest = (await repository.points({ vm: 'vm' })).at(-1)
  const number = Math.max(...numbers) + 1
  await backup(repository, { number, disks: [{ name: 'vda', image, ...(hasBase ? { base: newest?.id } : {}) }] })
  return number
}

/** Looks at these points, or at all, and marks what is damaged. */
export async function verifyAndMark(repository: OpenedRepository, chosen?: readonly PointSummary[]) {
  const points = chosen ?? (await repository.points())
  const result = await verifyPoints(repository, { points })
  const whole = points.map(({ id }) => id)
  await markDamaged(repository, { result, whole, isAll: !chosen, who: 'jane@box', now: new Date() })
  return result.problems
}

export async function exchangeKeys(worker: Worker): Promise<void> {
  const open = async (credential: Credential): Promise<KeyContext> => {
    const repository = await openWith(worker, credential)
    assert.ok(repository.slot)
    return { ...contextOf(repository), slot: repository.slot, credential }
  }
  if (await opens(worker, firstKey)) {
    const first = await open(firstKey)
    await addKey(first, spareKey)
    await rotateKey(first, laterKey)
  }
  const later = await open(laterKey)
  for (const { id } of await listKeys(later)) if (id !== later.slot) await removeKey(later, id)
}

/** `third`: the image of point 3. */
export const works = {
  'incremental backup': async (worker: Worker, third: Uint8Array) => {
    await backUpNext(await openAny(worker), nextImage(third))
  },
  'forget and prune': async (worker: Worker) => {
    const repository = await openAny(worker)
    const other = await repository.points({ vm: 'other', all: true })
    await forgetPoints(contextOf(repository), other, { why: 'a test', lastPoint: true })
    const plan = await planPrune(contextOf(repository), { vm: 'vm', policy: { keepLast: 1 }, zone: 'UTC' })
    await applyPrune(contextOf(repository), plan)
  },
  'garbage collection': async (worker: Worker) => {
    await collectGarbage(contextOf(await openAny(worker)), { graceMs: 0 })
  },
  'exchange of keys': exchangeKeys,
  'new data keys': async (worker: Worker) => {
    const { skipped } = await startEpochs(contextOf(await openAny(worker)))
    assert.deepEqual(skipped, [])
  },
  'a hold, and its end': async (worker: Worker) => {
    const repository = await openAny(worker)
    const held = await summaryOf(repository, pointNumber(2))
    await addHold(contextOf(repository), held, 'a test')
    for (const { id, point } of (await listHolds(repository.reading.control)).holds)
      await removeHold(contextOf(repository), { id, point })
  },
  'marks of damage, and healing': async (worker: Worker, third: Uint8Array) => {
    const repository = await openAny(worker)
    await verifyAndMark(repository, [await summaryOf(repository, pointNumber(3))])
    await backUpNext(await openAny(worker), third, false)
  },
} as const

export type WorkName = keyof typeof works

export const isWorkName = (name: string): name is WorkName => name in works
