/** G8: a full backup against restic (CPU, wall) and against zstd -1 of the whole image (stored bytes). */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { cost, lifeboat } from './process-cost.ts'
import { makeRepository } from './repository.ts'
import { folderBytes, makeRestic } from './restic.ts'

export const goal: Goal = {
  id: 'G8',
  title: 'full backup',
  async run({ dir, rounds, record, say }) {
    const { v1 } = await images()
    const whole = path.join(dir, 'whole.zst')
    const zstd = await cost('zstd', ['-1', '-T1', '-q', '-f', v1, '-o', whole])
    const zstdBytes = (await stat(whole)).size
    const [cpu, wall, stored, storedRestic]: number[][] = [[], [], [], []]
    for (let round = 0; round < rounds; round++) {
      const restic = await makeRestic(dir, `restic-${round}`)
      const peer = await cost('restic', ['backup', '--quiet', '--no-cache', v1], restic.environment)
      const repository = await makeRepository(dir, `repo-${round}`)
      const ours = await lifeboat(['backup', 'vm', '--image', `vda=${v1}`, '--json'], repository.environment)
      const [ourBytes, peerBytes] = [await folderBytes(repository.path), await folderBytes(restic.path)]
      cpu?.push(ours.cpuSeconds / peer.cpuSeconds)
      wall?.push(ours.wallSeconds / peer.wallSeconds)
      stored?.push(ourBytes / zstdBytes)
      storedRestic?.push(ourBytes / peerBytes)
      record(`round ${round}`, {
        ours: { ...ours, bytes: ourBytes },
        restic: { ...peer, bytes: peerBytes },
        zstd,
        zstdBytes,
      })
      say(
        `ours ${ours.cpuSeconds.toFixed(1)} CPU-s ${ours.wallSeconds.toFixed(1)} s ${ours.peakMiB.toFixed(0)} MiB, restic ${peer.cpuSeconds.toFixed(1)} CPU-s ${peer.wallSeconds.toFixed(1)} s`,
      )
    }
    return [
      judge({
        goal: 'G8: CPU',
        product: 'backup --image',
        peer: 'restic backup',
        ratios: cpu ?? [],
        target: { atMost: 0.5 },
      }),
      judge({
        goal: 'G8: wall',
        product: 'backup --image',
        peer: 'restic backup',
        ratios: wall ?? [],
        target: { atMost: 0.5 },
      }),
      judge({
        goal: 'G8: stored',
        product: 'repository',
        peer: 'zstd -1 of the image',
        ratios: stored ?? [],
        target: { atMost: 1.05 },
      }),
      judge({
        goal: 'G8: stored',
        product: 'repository',
        peer: 'restic repository',
        ratios: storedRestic ?? [],
        target: { atMost: 1.05 },
      }),
    ]
  },
}
