/** Many walks, here or in worker threads. A job is told by names and numbers alone, so that it can be sent and repeated. */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { configurations } from './configuration.ts'
import { mutants } from './mutants.ts'
import { type WalkResult, walk } from './walk.ts'

export interface Job {
  readonly configuration: string
  readonly from: number
  readonly count: number
  readonly mutant?: string
  /** Along the story of this mutant, whether or not anybody is one. */
  readonly along?: string
  /** Ends with the first violation. */
  readonly isSearch?: boolean
}

export interface JobResult {
  readonly job: Job
  readonly walks: number
  readonly steps: number
  /** How often each kind of process ended in each way. */
  readonly ends: Readonly<Record<string, number>>
  readonly found: readonly Found[]
  readonly differences: number
}

export interface Found {
  /** To be given as SEED. */
  readonly seed: string
  readonly violation: string
  readonly story: readonly string[]
}

export async function runJob(job: Job): Promise<JobResult> {
  const ends: Record<string, number> = {}
  const found: Found[] = []
  let walks = 0
  let steps = 0
  let differences = 0
  for (let seed = job.from; seed < job.from + job.count; seed++) {
    const result = await walkOnce(job, seed)
    walks++
    steps += result.story.length
    differences += result.differences
    for (const [name, end] of result.ends) {
      const kind = `${name.replace(/\d+$/, '')} ${end}`
      ends[kind] = (ends[kind] ?? 0) + 1
    }
    if (result.violation === undefined) continue
    found.push({ seed: nameOf(job, seed), violation: result.violation, story: result.story })
    if (job.isSearch) break
  }
  return { job, walks, steps, ends, found, differences }
}

async function walkOnce({ configuration, mutant, along }: Job, seed: number): Promise<WalkResult> {
  const chosen = configurations.find(({ name }) => name === configuration)
  if (!chosen) throw new Error(`there is no configuration ${configuration}`)
  const steer = along === undefined ? undefined : mutants.find(({ name }) => name === along)?.story
  return walk({ configuration: chosen, seed, mutant: mutants.find(({ name }) => name === mutant), steer })
}

const nameOf = ({ configuration, mutant = '', along = '' }: Job, seed: number): string =>
  [configuration, seed, mutant, along].join(':').replace(/:+$/, '')

/** `configuration:seed:mutant:along`, the last two perhaps absent. */
export function jobOfSeed(text: string): Job {
  const [configuration = '', seed = '', mutant, along] = text.split(':')
  return { configuration, from: Number(seed), count: 1, mutant: mutant || undefined, along: along || undefined }
}

export async function runJobs(
  jobs: readonly Job[],
  width: number,
  onResult: (result: JobResult) => void,
): Promise<void> {
  const left = [...jobs].reverse()
  await Promise.all(
    Array.from({ length: width }, async () => {
      const worker = new Worker(new URL('./job-worker.ts', import.meta.url))
      try {
        for (let job = left.pop(); job; job = left.pop()) onResult(await ask(worker, job))
      } finally {
        await worker.terminate()
      }
    }),
  )
}

async function ask(worker: Worker, job: Job): Promise<JobResult> {
  const answered = new AbortController()
  const { signal } = answered
  try {
    worker.postMessage(job)
    const [result] = await Promise.race([
      once(worker, 'message', { signal }),
      // `once` also rejects when the worker has an error.
      once(worker, 'exit', { signal }).then(([code]) => Promise.reject(new Error(`a worker ended with ${code}`))),
    ])
    return result
  } finally {
    answered.abort()
  }
}

export const storyOf = ({ seed, violation, story }: Found): string =>
  `${violation}\nrepeat it with SEED=${seed}\n${story.map((step, n) => `${String(n + 1).padStart(5)}. ${step}`).join('\n')}`
