/** G8: a full backup against restic (CPU, wall) and against zstd -1 of the whole image (stored bytes). */
import { rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { type Cost, cost, lifeboat } from './process-cost.ts'
import { makeRepository } from './repository.ts'
import { folderBytes, makeRestic } from './restic.ts'
import { isInstalled, run } from './tools.ts'

export const goal: Goal = {
  id: 'G8',
  title: 'full backup',
  async run({ dir, rounds, record, say }) {
    const { v1 } = await images()
    const zstdBytes = (await isInstalled('zstd')) ? await compressedWhole(v1, path.join(dir, 'whole.zst')) : undefined
    const hasRestic = await isInstalled('restic')
    const ratios: Record<'cpu' | 'wall' | 'toZstd' | 'toRestic', number[]> = {
      cpu: [],
      wall: [],
      toZstd: [],
      toRestic: [],
    }
    for (let round = 0; round < rounds; round++) {
      const restic = hasRestic ? await resticFull(dir, round, v1) : undefined
      const repository = await makeRepository(dir, `repo-${round}`)
      const ours = await lifeboat(['backup', 'vm', '--image', `vda=${v1}`, '--json'], repository.environment)
      const bytes = await folderBytes(repository.path)
      if (restic) {
        ratios.cpu.push(ours.cpuSeconds / restic.cpuSeconds)
        ratios.wall.push(ours.wallSeconds / restic.wallSeconds)
        ratios.toRestic.push(bytes / restic.bytes)
      }
      if (zstdBytes !== undefined) ratios.toZstd.push(bytes / zstdBytes)
      record(`round ${round}`, { ours: { ...ours, bytes }, restic, zstdBytes })
      say(
        `ours ${ours.cpuSeconds.toFixed(1)} CPU-s ${ours.wallSeconds.toFixed(1)} s ${ours.peakMiB.toFixed(0)} MiB, ` +
          `restic ${restic?.cpuSeconds.toFixed(1)} CPU-s ${restic?.wallSeconds.toFixed(1)} s`,
      )
      await rm(repository.path, { recursive: true })
    }
    const row = (what: string, peer: string, values: readonly number[], atMost: number) =>
      judge({ goal: `G8: ${what}`, product: 'backup --image', peer, ratios: values, target: { atMost } })
    return [
      row('CPU', 'restic backup', ratios.cpu, 0.5),
      row('wall', 'restic backup', ratios.wall, 0.5),
      row('stored', 'zstd -1 of the image', ratios.toZstd, 1.05),
      row('stored', 'restic repository', ratios.toRestic, 1.05),
    ]
  },
}

async function compressedWhole(image: string, output: string): Promise<number> {
  await run('zstd', ['-1', '-T1', '-q', '-f', image, '-o', output])
  const { size } = await stat(output)
  await rm(output)
  return size
}

async function resticFull(dir: string, round: number, image: string): Promise<Cost & { readonly bytes: number }> {
  const restic = await makeRestic(dir, `restic-${round}`)
  const spent = await cost('restic', ['backup', '--quiet', '--no-cache', image], restic.environment)
  const bytes = await folderBytes(restic.path)
  await rm(restic.path, { recursive: true })
  return { ...spent, bytes }
}
