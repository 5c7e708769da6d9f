/** G10: a backup of an unchanged image without CBT (every byte is read) against restic --force. */
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { cost, lifeboat } from './process-cost.ts'
import { makeRepository } from './repository.ts'
import { makeRestic } from './restic.ts'
import { isInstalled } from './tools.ts'

export const goal: Goal = {
  id: 'G10',
  title: 'increment by scan',
  async run({ dir, rounds, record, say }) {
    const { v1 } = await images()
    const restic = (await isInstalled('restic')) ? await makeRestic(dir, 'restic') : undefined
    if (restic) await cost('restic', ['backup', '--quiet', '--no-cache', v1], restic.environment)
    const repository = await makeRepository(dir, 'repo')
    const backup = ['backup', 'vm', '--image', `vda=${v1}`, '--json']
    await lifeboat(backup, repository.environment)
    const cpu: number[] = []
    for (let round = 0; round < rounds; round++) {
      const argv = ['backup', '--quiet', '--no-cache', '--force', v1]
      const peer = restic && (await cost('restic', argv, restic.environment))
      const ours = await lifeboat(backup, repository.environment)
      if (peer) cpu.push(ours.cpuSeconds / peer.cpuSeconds)
      record(`round ${round}`, { ours, peer })
      say(`ours ${ours.cpuSeconds.toFixed(2)} CPU-s, restic ${peer?.cpuSeconds.toFixed(2)} CPU-s`)
    }
    return [
      judge({
        goal: 'G10: CPU',
        product: 'backup --image, unchanged',
        peer: 'restic --force',
        ratios: cpu,
        target: { atMost: 0.6 },
      }),
    ]
  },
}
