/**
 * Forget, prune, hold and policy on a host that dies before or after its k-th change of the store, or loses the answer, for every
 * k: each point that is listed restores, no mark or hold is without its audit entry, and doing it again ends as if nothing had been.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../src/core/errors.ts'
import { seededRandom } from '../../src/core/random.ts'
import { forgetPoints } from '../../src/maintenance/forget.ts'
import { addHold, removeHold } from '../../src/maintenance/hold.ts'
import { type MaintenanceContext, maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { listPolicies, setPolicy } from '../../src/maintenance/policy.ts'
import { applyPrune, planPrune } from '../../src/maintenance/prune.ts'
import { listHolds } from '../../src/repository/holds.ts'
import { forgottenPrefix } from '../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import type { PointSummary } from '../../src/repository/repository.ts'
import { memoryStore, type StoredObject } from '../../src/storage/memory.ts'
import { intercepted, type StoreRequest } from '../doubles/intercepted-store.ts'
import { manualClock } from '../doubles/manual-clock.ts'
import {
  backup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
} from '../doubles/memory-repository.ts'

const C = 4096
const POINTS = 6

interface Story {
  readonly start: ReadonlyMap<string, StoredObject>
  readonly images: readonly Uint8Array[]
}

/** Six increments of one VM; the first is held. */
async function story(): Promise<Story> {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'story' })
  const random = seededRandom('story')
  const images: Uint8Array[] = []
  for (let number = 1; number <= POINTS; number++) {
    const image = images.at(-1)?.slice() ?? random(40 * C)
    image.set(random(2 * C), (number % 30) * C)
    images.push(image)
    const base = number === 1 ? {} : { base: pointNumber(number - 1) }
    await backup(repository, { number, disks: [{ name: 'vda', image, ...base }] })
  }
  await addHold(maintenanceContext(repository, 'jane@box'), (await repository.points())[0]!, 'kept')
  return { start: store.snapshot(), images }
}

interface Action {
  readonly run: (context: MaintenanceContext, points: readonly PointSummary[]) => Promise<unknown>
  /** What must be true when it was done, at whichever attempt. */
  readonly check: (context: MaintenanceContext, listed: readonly number[]) => Promise<void>
  readonly changes: number
}

const actions: Readonly<Record<string, Action>> = {
  prune: {
    async run(context) {
      await applyPrune(context, await planPrune(context, { policy: { keepLast: 2 }, zone: 'UTC' }))
    },
    check: async (_context, listed) => assert.deepEqual(listed, [1, 5, 6]),
    changes: 4,
  },
  forget: {
    run: (context, points) => forgetPoints(context, [points[1]!, points[3]!], { why: 'a test' }),
    check: async (_context, listed) => assert.deepEqual(listed, [1, 3, 5, 6]),
    changes: 3,
  },
  'hold add': {
    run: (context, points) => addHold(context, points[2]!, 'audit'),
    async check({ control }) {
      const { holds } = await listHolds(control)
      assert.ok(holds.some(({ point }) => point === pointNumber(3)))
    },
    changes: 2,
  },
  'hold remove': {
    async run(context) {
      for (const { id } of (await listHolds(context.control)).holds) await removeHold(context, { id })
    },
    check: async ({ control }) => assert.deepEqual((await listHolds(control)).holds, []),
    changes: 2,
  },
  'policy set': {
    run: context => setPolicy(context, 'vm', { keepDaily: 3 }),
    check: async context =>
      assert.deepEqual((await listPolicies(context))[0]?.policy, { keepDaily: 3, timeZone: 'UTC' }),
    changes: 2,
  },
}

type Ending = 'dies before' | 'dies after' | 'loses the answer'

/** Runs until change `k`; gives what survives, and how many changes there were. */
async function interrupted(story: Story, { run }: Action, k: number, ending: Ending) {
  const store = memoryStore({ entries: story.start, clock: manualClock() })
  const numbers = new Map<StoreRequest, number>()
  let changes = 0
  let isDead = false
  let isArmed = false
  const gone = () => new LifeboatError('store-unreachable', 'the host died')
  const repository = await openMemoryRepository(
    intercepted(store, {
      before(request) {
        if (isDead) throw gone()
        if (!isArmed || (request.verb !== 'put' && request.verb !== 'delete')) return
        numbers.set(request, ++changes)
        if (changes !== k || ending !== 'dies before') return
        isDead = true
        throw gone()
      },
      after(request) {
        if (isDead) throw gone()
        if (numbers.get(request) !== k || ending === 'dies before') return
        isDead = ending === 'dies after'
        throw gone()
      },
    }),
    { seed: `run ${k}` },
  )
  const points = await repository.points()
  isArmed = true
  let hasFailed = false
  try {
    await run(maintenanceContext(repository, 'jane@box'), points)
  } catch (error) {
    assert.match(String(error), /the host died/)
    hasFailed = true
  }
  return { store, changes, hasFailed }
}

/** Numbers of the listed points, each of which was read whole. */
async function restored(repository: OpenedRepository, { images }: Story): Promise<readonly number[]> {
  const numbers: number[] = []
  for (const { id } of await repository.points()) {
    const number = Number.parseInt(id, 16)
    assert.equal(
      Buffer.compare(await readBack(repository, id, 'vda'), images[number - 1]!),
      0,
      `point ${number} differs`,
    )
    numbers.push(number)
  }
  assert.ok(numbers.includes(POINTS), 'the newest is there')
  return numbers
}

async function assertAudited({ control }: MaintenanceContext, store: ReturnType<typeof memoryStore>): Promise<void> {
  const entries: string[] = []
  for (const key of keysOf(store, 'audit/'))
    entries.push(JSON.stringify((await control.get('audit', key))?.object('details')))
  const marks = keysOf(store, forgottenPrefix).map(key => key.slice(forgottenPrefix.length))
  const holds = (await listHolds(control)).holds.map(({ id }) => id)
  for (const id of [...marks, ...holds])
    assert.ok(
      entries.some(details => details.includes(id)),
      `${id} without its audit entry`,
    )
}

for (const [name, action] of Object.entries(actions))
  test(`${name}: a host that dies at any change of the store harms nothing, and the next attempt ends it`, async t => {
    const tale = await story()
    const { changes: total } = await interrupted(tale, action, Number.POSITIVE_INFINITY, 'dies before')
    assert.equal(total, action.changes)
    let fired = 0
    for (const ending of ['dies before', 'dies after', 'loses the answer'] as const)
      for (let k = 1; k <= total; k++) {
        const { store, hasFailed } = await interrupted(tale, action, k, ending)
        assert.ok(hasFailed, `${ending} ${k} did not fire`)
        fired++
        const repository = await openMemoryRepository(store, { seed: `after ${k}` })
        const context = maintenanceContext(repository, 'jane@box')
        await restored(repository, tale)
        await assertAudited(context, store)
        const all = (await repository.points({ all: true })).toSorted((a, b) => (a.id < b.id ? -1 : 1))
        await action.run(context, all)
        await action.check(context, await restored(repository, tale))
        await assertAudited(context, store)
      }
    t.diagnostic(`${fired} ends at ${total} changes`)
  })
