/** Walks of one job after the other, on a thread of their own. */
import { parentPort } from 'node:worker_threads'
import { runInSmall } from './in-small.ts'
import { type Job, runJob } from './job.ts'

runInSmall()
parentPort?.on('message', (job: Job) => {
  // A failure of the walk itself ends the thread, and with it the job.
  void runJob(job).then(result => parentPort?.postMessage(result))
})
