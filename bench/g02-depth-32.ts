/** G2: 4 KiB random reads at depth 32, warm, and what each costs the server. */
import { type Goal, judge } from './goal.ts'
import { randomReads, ratios } from './random-read.ts'

export const goal: Goal = {
  id: 'G2',
  title: 'random reads of 4 KiB, depth 32, warm',
  async run(bench) {
    const { ours, peer } = await randomReads(bench, 32)
    const names = { product: 'export', peer: 'nbdkit memory' }
    return [
      judge({
        ...names,
        goal: 'G2: 4 KiB random reads, depth 32',
        ratios: ratios(ours.iops, peer?.iops),
        target: { atLeast: 1.3 },
      }),
      judge({
        ...names,
        goal: 'G2: CPU of a read',
        ratios: ratios(ours.cpuMicroseconds, peer?.cpuMicroseconds),
        target: { atMost: 0.9 },
      }),
    ]
  },
}
