/**
 * Writers, exports, forgets and collections on one store, every request of each a step of a seeded schedule (docs/concurrency.md,
 * section 12). The shipped code runs; the rules that keep it safe are removed one at a time by decorators of a host's store.
 *
 * SEEDS=n makes n walks of each configuration; SEED=c7:20 repeats one and tells its story.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { configurations } from './schedule/configuration.ts'
import { runInSmall } from './schedule/in-small.ts'
import { type JobResult, jobOfSeed, runJob, storyOf } from './schedule/job.ts'
import { mutants } from './schedule/mutants.ts'

runInSmall()

const { SEED, SEEDS } = process.env
const seeds = Number(SEEDS ?? 12)

function assertUnharmed({ found: [found] }: JobResult): void {
  if (found) assert.fail(storyOf(found))
}

if (SEED !== undefined)
  test(`walk ${SEED}`, async t => {
    const result = await runJob(jobOfSeed(SEED))
    t.diagnostic(JSON.stringify(result.ends))
    assertUnharmed(result)
  })
else {
  for (const { name } of configurations)
    test(`no schedule of configuration ${name} loses anything`, async t => {
      const result = await runJob({ configuration: name, from: 1, count: seeds })
      t.diagnostic(`seeds 1 to ${seeds}: ${result.steps} steps`)
      assertUnharmed(result)
      assert.ok(Object.keys(result.ends).some(end => end.endsWith(' done')))
    })

  for (const { name, says, story, harmless } of mutants)
    test(`${harmless ? 'nothing is lost' : 'it is noticed'} when ${says} (${name})`, async t => {
      const { configuration } = story
      const job = { configuration, from: 1, count: 12, along: name }
      const removed = await runJob({ ...job, mutant: name, isSearch: true })
      const [found] = removed.found
      if (harmless) {
        assert.ok(removed.differences > 0, 'the rule made no difference in these walks')
        t.diagnostic(`${removed.differences} answers differed: ${harmless}`)
        assertUnharmed(removed)
        return
      }
      assert.ok(found, `nothing was lost in ${removed.walks} walks`)
      t.diagnostic(`walk ${found.seed}: ${found.violation}`)
      // The same schedules with the rule in place.
      assertUnharmed(await runJob({ ...job, count: removed.walks }))
    })
}
