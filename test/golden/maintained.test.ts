/**
 * What years of maintenance leave behind (scripts/make-golden-maintained.ts): rewritten packs, repair objects, epochs, audit,
 * policies, holds, a lock ledger, and points that do not count. It must open, restore and verify for ever.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { parseKeyFile } from '../../src/crypto/key-file.ts'
import { readAuditLog } from '../../src/maintenance/audit-log.ts'
import { planGc } from '../../src/maintenance/gc-plan.ts'
import { maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { listPolicies } from '../../src/maintenance/policy.ts'
import { planPrune } from '../../src/maintenance/prune.ts'
import type { Pipeline } from '../../src/native/pipeline.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { listDamage } from '../../src/repository/damage-marks.ts'
import { listHolds } from '../../src/repository/holds.ts'
import { renewalState } from '../../src/repository/lock-ledgers.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import { verifyChain } from '../../src/repository/verify-chain.ts'
import { verifyObjects } from '../../src/repository/verify-objects.ts'
import { digestOfDisk, openGolden, sha256Of } from '../doubles/golden.ts'

interface Expected {
  readonly repository: string
  readonly points: readonly { readonly point: string; readonly vm: string; readonly sha256: string }[]
}

interface Maintained extends Expected {
  readonly forgotten: string
  readonly void: string
  readonly hold: string
  readonly rewritten: readonly string[]
  readonly repairs: readonly string[]
}

const golden = join(import.meta.dirname, 'format-1-maintained')
const keyFile = join(golden, 'key')
const credential = { kind: 'file', secret: parseKeyFile(await readFile(keyFile, 'utf8'), keyFile) } as const
const { maintained, locked } = JSON.parse(await readFile(join(golden, 'expected.json'), 'utf8')) as {
  readonly maintained: Maintained
  readonly locked: Expected
}
const scratch = await mkdtemp(join(tmpdir(), 'lifeboat-golden-maintained-'))
after(() => rm(scratch, { recursive: true, force: true }))

/** All points that count, bit by bit; every object of every kind. */
async function readsWhole(repository: OpenedRepository, expected: Expected): Promise<void> {
  assert.equal(repository.id, expected.repository)
  const points = await repository.points()
  assert.deepEqual(points.map(({ id }) => id).sort(), expected.points.map(({ point }) => point).sort())
  for (const { point: wanted, vm, sha256 } of expected.points) {
    await using point = await repository.openPoint(points.find(({ id }) => id === wanted)!, { pin: 'restore' })
    assert.equal((await digestOfDisk(point, 'vda')).sha256, sha256, `${vm} ${wanted}`)
  }
  assert.deepEqual((await verifyPoints(repository, { points })).problems, [])
  const { problems, unknown } = await verifyObjects(repository.reading, { points })
  assert.deepEqual([problems, unknown], [[], []])
  assert.deepEqual((await verifyChain(repository.reading, points, points)).problems, [])
}

for (const [name, pipeline] of [
  ['the addon', undefined],
  ['plain TypeScript', twinPipeline],
] as readonly (readonly [string, Pipeline | undefined])[])
  test(`all that maintenance left reads and verifies, by ${name}`, async () => {
    await using opened = await openGolden(join(golden, 'repository'), credential, pipeline)
    await readsWhole(opened.repository, maintained)
  })

test('who held, kept, forgot and marked what is still known, and the next prune and collection plan by it', async () => {
  await using opened = await openGolden(join(golden, 'repository'), credential)
  const { repository } = opened
  const { reading } = repository
  const context = maintenanceContext(repository, 'test@golden')
  const states = new Map((await repository.points({ all: true })).map(({ id, state }) => [id as string, state]))
  assert.deepEqual([states.get(maintained.forgotten), states.get(maintained.void)], ['forgotten', 'void'])
  const { holds } = await listHolds(reading.control)
  assert.deepEqual(
    holds.map(({ id, reason, who }) => [id, reason, who]),
    [[maintained.hold, 'audit 2026', 'keeper@golden']],
  )
  const policies = new Map((await listPolicies(context)).map(({ vm, policy }) => [vm, policy]))
  assert.deepEqual(policies.get(undefined), { keepDaily: 7, keepWeekly: 4, timeZone: 'Europe/Berlin' })
  assert.deepEqual(policies.get('web'), { keepLast: 30, timeZone: 'UTC' })
  const { entries } = await readAuditLog(reading, { limit: 100 })
  const actions = entries.map(({ action }) => action)
  assert.deepEqual(new Set(actions), new Set(['policy-set', 'forget', 'gc', 'key-rotate', 'hold-add']))
  assert.equal(actions.filter(action => action === 'forget').length, 3)
  assert.equal((await listDamage(reading.control)).length, 2)

  const kept = new Map((await planPrune(context, { zone: 'UTC' })).keep.map(({ point, reasons }) => [point.id, reasons]))
  const newest = maintained.points.findLast(({ vm }) => vm === 'other')
  const wanted = maintained.points.filter(point => point.vm === 'web' || point === newest)
  assert.deepEqual([...kept.keys()].sort(), wanted.map(({ point }) => point).sort())
  assert.ok(kept.get(holds[0]!.point as never)?.some(reason => reason.startsWith('held by keeper@golden')))
  const { forget, condemned } = await planGc(context)
  assert.deepEqual([...forget.keys()], [maintained.forgotten])
  const needed = new Set([...maintained.rewritten, ...maintained.repairs])
  assert.deepEqual(condemned.flatMap(({ keys }) => keys).filter(key => needed.has(key)), [])
})

test('a copy of a bucket with locks opens, verifies, and knows its last renewal', async () => {
  await using opened = await openGolden(join(golden, 'locked'), credential)
  const { repository } = opened
  await readsWhole(repository, locked)
  const { control, lock } = repository.reading
  assert.ok(lock)
  assert.deepEqual([lock.mode, lock.forMs, lock.renewEveryMs], ['governance', 4 * 3_600_000, 3_600_000])
  const { last, who } = await renewalState(control, lock, new Date())
  assert.deepEqual([last?.toISOString(), who], ['2026-11-21T14:00:00.000Z', 'keeper@golden'])
})

test('the program without dependencies restores every point of both', async () => {
  const program = join(import.meta.dirname, '../../recover/recover.mjs')
  for (const [name, { points }] of [
    ['repository', maintained],
    ['locked', locked],
  ] as const)
    for (const { point, vm, sha256 } of points) {
      const output = join(scratch, point)
      const words = ['--repo', join(golden, name), '--key-file', keyFile, `${vm}@${point}/vda`, '--output', output]
      await promisify(execFile)(process.execPath, [program, ...words])
      assert.equal(sha256Of(await readFile(output)), sha256, `${vm} ${point}`)
    }
})
