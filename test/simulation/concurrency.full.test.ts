/**
 * As concurrency.test.ts, at length and on two threads: ten thousand walks; every rule removed, along its shortest story and by
 * chance; and the rules of which no story is known.
 *
 * SEEDS=n makes n walks in all; FIRST=n begins with another seed.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { configurations } from './schedule/configuration.ts'
import { type Job, type JobResult, runJobs, storyOf } from './schedule/job.ts'
import { mutants } from './schedule/mutants.ts'

const walks = Number(process.env.SEEDS ?? 10_000)
const first = Number(process.env.FIRST ?? 1000)
const THREADS = 2
const WALKS_A_JOB = 20

async function run(jobs: readonly Job[]): Promise<readonly JobResult[]> {
  const results: JobResult[] = []
  await runJobs(jobs, THREADS, result => results.push(result))
  return results
}

const sum = (results: readonly JobResult[], of: (result: JobResult) => number): number =>
  results.reduce((total, result) => total + of(result), 0)

test('no schedule of ten thousand loses anything', async t => {
  const jobs: Job[] = []
  for (let left = walks, from = first; left > 0; from += WALKS_A_JOB)
    for (const { name } of configurations) {
      const count = Math.min(WALKS_A_JOB, left)
      if (count > 0) jobs.push({ configuration: name, from, count })
      left -= count
    }
  const results = await run(jobs)
  const ends: Record<string, number> = {}
  for (const result of results)
    for (const [end, count] of Object.entries(result.ends)) ends[end] = (ends[end] ?? 0) + count
  t.diagnostic(`${sum(results, r => r.walks)} walks from seed ${first} on, ${sum(results, r => r.steps)} steps`)
  t.diagnostic(
    Object.entries(ends)
      .sort()
      .map(([end, count]) => `${end} ${count}`)
      .join(', '),
  )
  const found = results.flatMap(result => result.found)
  if (found[0]) assert.fail(`${found.length} walks: ${found.map(({ seed }) => seed).join(' ')}\n${storyOf(found[0])}`)
  for (const end of ['W not-committed', 'W lease-lost', 'W died', 'GC died', 'E point-forgotten'])
    assert.ok((ends[end] ?? 0) > 0, `nobody ended with '${end}'`)
})

test('each rule, when it is removed, is missed along its story, and none while it is kept', async t => {
  const job = { from: first, count: 25 }
  const jobs = mutants.flatMap(({ name, story: { configuration } }) => [
    { ...job, configuration, along: name, mutant: name },
    { ...job, configuration, along: name },
  ])
  const results = await run(jobs)
  for (const { name, harmless } of mutants) {
    const [kept, removed] = [undefined, name].map(
      mutant => results.find(result => result.job.along === name && result.job.mutant === mutant)!,
    )
    const { found, walks: made, differences } = removed!
    t.diagnostic(
      `${name}: ${found.length} of ${made} walks; ${found[0]?.violation ?? `${differences} answers differed`}`,
    )
    if (kept!.found[0]) assert.fail(storyOf(kept!.found[0]))
    if (!harmless) assert.ok(found.length > 0, `nothing was lost without ${name}`)
    else if (found[0]) assert.fail(`${name} is not harmless\n${storyOf(found[0])}`)
    else assert.ok(differences > 0, `${name} made no difference`)
  }
})

test('chance alone finds many of them, and nothing where the rule is not needed', async t => {
  const results = await run(
    mutants.map(({ name, story: { configuration } }) => ({
      configuration,
      from: first,
      count: 100,
      mutant: name,
      isSearch: true,
    })),
  )
  let byChance = 0
  for (const { name, harmless } of mutants) {
    const { found, walks: made } = results.find(result => result.job.mutant === name)!
    t.diagnostic(found[0] ? `${name}: walk ${made}` : `${name}: not in ${made} walks`)
    if (found[0]) byChance++
    if (harmless && found[0]) assert.fail(`${name} is not harmless\n${storyOf(found[0])}`)
  }
  assert.ok(byChance >= 4, `only ${byChance} of ${mutants.length} rules were missed by chance`)
})
