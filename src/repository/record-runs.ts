/** Which records go into one ranged GET. Pure. */
import { limits } from '../core/limits.ts'
import type { Range } from '../core/range.ts'

export interface RecordRun<T extends Range> {
  readonly offset: number
  length: number
  readonly records: T[]
}

export interface RunLimits {
  /** Unwanted bytes between two records that are cheaper to read than another request. */
  readonly gapBytes: number
  readonly runBytes: number
  readonly runRecords: number
}

export const runLimitsOf = ({ kind, chunkSize }: { kind: 'data' | 'meta'; chunkSize: number }): RunLimits => ({
  gapBytes: limits.coalesceGapBytes,
  runBytes: limits.getBytesMax,
  // Nodes take about 9 KiB; what they claim beyond that is checked one by one.
  runRecords: Math.max(
    1,
    Math.floor(limits.getPlainBytesMax / (kind === 'data' ? chunkSize : limits.nodeBytesMax / 16)),
  ),
})

/** Records of one object, in any order; a run holds at least one however large. */
export function planRuns<T extends Range>(records: readonly T[], limits: RunLimits): RecordRun<T>[] {
  const runs: RecordRun<T>[] = []
  let run: RecordRun<T> | undefined
  for (const record of [...records].sort((a, b) => a.offset - b.offset)) {
    const end = record.offset + record.length
    if (run && joins(run, record, end, limits)) {
      run.length = Math.max(run.length, end - run.offset)
      run.records.push(record)
    } else {
      run = { offset: record.offset, length: record.length, records: [record] }
      runs.push(run)
    }
  }
  return runs
}

const joins = (run: RecordRun<Range>, record: Range, end: number, limits: RunLimits): boolean =>
  record.offset - (run.offset + run.length) <= limits.gapBytes &&
  end - run.offset <= limits.runBytes &&
  run.records.length < limits.runRecords
