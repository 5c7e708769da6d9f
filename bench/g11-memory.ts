/** G11: memory of `lifeboat mount` with 10,000 points, all of them listed and 1,000 looked into. No disk is read: nothing is taken off for the cache. */
import { open } from 'node:fs/promises'
import path from 'node:path'
import { MiB } from '../src/core/limits.ts'
import { systemRandom } from '../src/core/random.ts'
import { filesystemStore } from '../src/storage/filesystem.ts'
import { manyPoints } from '../test/doubles/many-points.ts'
import { type Goal, judge } from './goal.ts'
import { lifeboatMount } from './mount-process.ts'
import { lifeboat } from './process-cost.ts'
import { makeRepository } from './repository.ts'
import { openThrough } from './repository-in-memory.ts'
import { run } from './tools.ts'

const POINTS = 10_000
const BOUND_MIB = 160

export const goal: Goal = {
  id: 'G11-memory',
  title: 'memory of a mount of 10,000 points',
  async run({ dir, rounds, record, say }) {
    const image = path.join(dir, 'image.raw')
    await using file = await open(image, 'w')
    await file.write(systemRandom(MiB))
    const repository = await makeRepository(dir, 'repo')
    await lifeboat(['backup', 'vm', '--image', `vda=${image}`, '--json'], repository.environment)
    {
      const store = filesystemStore(repository.path)
      await using opened = await openThrough(store, repository)
      const [like] = await opened.points()
      const timeOf = (n: number) => new Date(Date.UTC(2025, 0, 1) + n * 1_800_000)
      const common = { count: POINTS - 1, vmOf: () => 'vm', timeOf }
      await manyPoints({ repository: opened, store, random: systemRandom }, { like: like!, ...common })
    }
    const ratios: number[] = []
    for (let round = 0; round < Math.min(rounds, 2); round++) {
      await using mount = await lifeboatMount(dir, repository.environment, ['--cache-size', '16MiB'])
      const started = await mount.peakMiB()
      await run('bash', ['-ec', 'ls -l "$1"/by-vm/vm "$1"/by-time "$1"/by-time/* > /dev/null', 'bash', mount.at])
      const listed = await mount.peakMiB()
      const some = 'ls -d "$1"/by-vm/vm/*Z | head -1000 | sed s,$,/disks, | xargs find > /dev/null'
      await run('bash', ['-ec', some, 'bash', mount.at])
      const walked = await mount.peakMiB()
      ratios.push(walked / BOUND_MIB)
      record(`round ${round}`, { started, listed, walked })
      say(
        `MiB: ${started.toFixed(0)} at first, ${listed.toFixed(0)} when all were listed, ${walked.toFixed(0)} at the end`,
      )
    }
    const common = { product: 'lifeboat mount', peer: `${BOUND_MIB} MiB` }
    return [judge({ goal: `G11: memory, ${POINTS} points`, ...common, ratios, target: { atMost: 1 } })]
  },
}
