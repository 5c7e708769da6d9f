/** fio's NBD client against one server. */
import { run } from './tools.ts'

export interface FioJob {
  readonly uri: string
  readonly rw: 'read' | 'randread' | 'randwrite'
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
  const report: { jobs: readonly Record<'read' | 'write', { bw_bytes: number }>[] } = JSON.parse(
    stdout.slice(stdout.indexOf('{')),
  )
  return report.jobs[0]?.[rw === 'randwrite' ? 'write' : 'read'].bw_bytes ?? Number.NaN
}

export interface Latencies {
  readonly iops: number
  readonly p50Ms: number
  readonly p99Ms: number
}

/** So many reads of 4 KiB at random places, one at a time; the same places for the same seed. */
export async function coldReads({
  uri,
  file,
  size,
  reads,
  seed,
}: {
  readonly uri?: string
  readonly file?: string
  readonly size: number
  readonly reads: number
  readonly seed: number
}): Promise<Latencies> {
  const { stdout } = await run('fio', [
    '--name=x',
    ...(uri === undefined
      ? ['--ioengine=psync', `--filename=${file}`, '--readonly', '--fadvise_hint=random']
      : ['--ioengine=nbd', `--uri=${uri}`, '--thread']),
    '--rw=randread',
    '--bs=4k',
    '--iodepth=1',
    `--size=${size}`,
    `--number_ios=${reads}`,
    `--randseed=${seed}`,
    '--allrandrepeat=1',
    '--norandommap',
    '--output-format=json',
  ])
  interface Report {
    readonly jobs: readonly {
      readonly read: {
        readonly iops: number
        readonly clat_ns: { readonly percentile: Readonly<Record<string, number>> }
      }
    }[]
  }
  const report: Report = JSON.parse(stdout.slice(stdout.indexOf('{')))
  const { iops = Number.NaN, clat_ns } = report.jobs[0]?.read ?? {}
  const ms = (name: string) => (clat_ns?.percentile[name] ?? Number.NaN) / 1e6
  return { iops, p50Ms: ms('50.000000'), p99Ms: ms('99.000000') }
}
