/** fio's NBD client against one server. */
import { run } from './tools.ts'

export interface FioJob {
  readonly uri: string
  readonly rw: 'read' | 'randread'
  readonly blockSize: string
  readonly depth: number
  readonly size: number
  readonly seconds: number
}

/** Bytes a second. */
export async function fio({ uri, rw, blockSize, depth, size, seconds }: FioJob): Promise<number> {
  const { stdout } = await run('fio', [
    '--name=x',
    '--ioengine=nbd',
    `--uri=${uri}`,
    `--rw=${rw}`,
    `--bs=${blockSize}`,
    `--iodepth=${depth}`,
    `--size=${size}`,
    '--thread',
    '--time_based',
    `--runtime=${seconds}`,
    '--ramp_time=0.3',
    '--norandommap',
    '--randrepeat=0',
    '--output-format=json',
  ])
  // Notes of fio may stand before its document.
  const report: { jobs: readonly { read: { bw_bytes: number } }[] } = JSON.parse(stdout.slice(stdout.indexOf('{')))
  return report.jobs[0]?.read.bw_bytes ?? Number.NaN
}
