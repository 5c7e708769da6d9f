/** G1: 4 KiB random reads one at a time, warm. */
import { type Goal, judge } from './goal.ts'
import { randomReads, ratios } from './random-read.ts'

export const goal: Goal = {
  id: 'G1',
  title: 'random reads of 4 KiB, depth 1, warm',
  async run(bench) {
    const { ours, peer } = await randomReads(bench, 1)
    return [
      judge({
        goal: 'G1: 4 KiB random reads, depth 1',
        product: 'export',
        peer: 'nbdkit memory',
        ratios: ratios(ours.iops, peer?.iops),
        target: { atLeast: 1.3 },
      }),
    ]
  },
}
