/**
 * G7: a full restore. Over a store with 10 ms latency behind a link of 150 MB/s, against the link: 16 parallel GETs of 1 MiB
 * over the same packs. From a repository in memory, against decoding the same records on all cores, and against decoding and
 * writing them, which no restore can leave out. From a local folder, against `restic dump`. Outputs lie in memory where there is room, so that no disk is measured.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { systemClock } from '../src/core/clock.ts'
import { MiB } from '../src/core/limits.ts'
import { systemRandom } from '../src/core/random.ts'
import { restoreDisk } from '../src/recovery/restore.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import { decodeAll, decodeAndWriteAll, readRecords } from './decode-speed.ts'
import { distant } from './distant-store.ts'
import { type Goal, judge, median } from './goal.ts'
import { type Images, images } from './images.ts'
import { LINK, packsOf, readAll } from './link.ts'
import { memoryFolder } from './memory-folder.ts'
import { cost, lifeboat } from './process-cost.ts'
import { type BenchRepository, makeRepository } from './repository.ts'
import { copiedToMemory, openThrough } from './repository-in-memory.ts'
import { makeRestic, type Restic } from './restic.ts'
import { type Spent, spent } from './spent.ts'
import { isInstalled } from './tools.ts'

export const goal: Goal = {
  id: 'G7',
  title: 'full restore',
  async run({ dir, rounds, record, say }) {
    const source = await images()
    await using scratch = await memoryFolder()
    const output = path.join(scratch.path, 'restored.raw')
    const repository = await makeRepository(dir, 'repo')
    await lifeboat(['backup', 'vm', '--image', `vda=${source.v1}`, '--json'], repository.environment)
    const memory = await copiedToMemory(repository)
    const packs = await packsOf(memory)
    const records = await readRecords(memory, repository)
    const restic = (await isInstalled('restic')) ? await resticWith(dir, source) : undefined

    const rows: Record<'link' | 'memory' | 'memoryCpu' | 'writing' | 'writingCpu' | 'local', number[]> = {
      link: [],
      memory: [],
      memoryCpu: [],
      writing: [],
      writingCpu: [],
      local: [],
    }
    for (let round = 0; round < rounds; round++) {
      const limit = await spent(() => readAll(distant(memory, LINK), packs))
      const far = await restoreThrough(distant(memory, LINK), repository, output)
      const decode = await spent(() => decodeAll(records))
      await rm(output, { force: true })
      const write = await spent(() => decodeAndWriteAll(records, output))
      const near = await restoreThrough(memory, repository, output)
      if (round === 0) await mustBeEqual(source.v1, output)
      const dump =
        restic &&
        (await cost('bash', ['-c', 'restic dump latest "$1" > /dev/null', '-', source.v1], restic.environment))
      await rm(output, { force: true })
      const local = await lifeboat(['restore', 'vm@latest/vda', '--output', output, '--json'], repository.environment)
      rows.link.push(limit.wallSeconds / far.wallSeconds)
      rows.memory.push(decode.wallSeconds / near.wallSeconds)
      rows.memoryCpu.push(decode.cpuSeconds / near.cpuSeconds)
      rows.writing.push(write.wallSeconds / near.wallSeconds)
      rows.writingCpu.push(write.cpuSeconds / near.cpuSeconds)
      if (dump) rows.local.push(local.cpuSeconds / dump.cpuSeconds)
      record(`round ${round}`, { limit, far, decode, write, near, dump: dump && { ...dump, stdout: '' }, local })
      say(
        `link ${words(limit)}, over it ${words(far)}; decode ${words(decode)}, decode and write ${words(write)}, from memory ${words(near)}; ` +
          `local ${words(local)}, restic dump ${dump ? words(dump) : '-'}`,
      )
    }
    say(
      `medians: ${JSON.stringify(Object.fromEntries(Object.entries(rows).map(([name, all]) => [name, median(all)])))}`,
    )
    return [
      judge({
        goal: 'G7: over the link',
        product: 'restore',
        peer: '16 parallel GETs',
        ratios: rows.link,
        target: { atLeast: 0.8 },
      }),
      judge({
        goal: 'G7: from memory',
        product: 'restore',
        peer: 'decoding on all cores',
        ratios: rows.memory,
        target: { atLeast: 0.9 },
      }),
      judge({
        goal: 'G7: from memory, by CPU',
        product: 'restore',
        peer: 'decoding',
        ratios: rows.memoryCpu,
        target: { atLeast: 0.9 },
      }),
      judge({
        goal: 'G7: from memory',
        product: 'restore',
        peer: 'decoding and writing on all cores',
        ratios: rows.writing,
        target: { atLeast: 0.9 },
      }),
      judge({
        goal: 'G7: from memory, by CPU',
        product: 'restore',
        peer: 'decoding and writing',
        ratios: rows.writingCpu,
        target: { atLeast: 0.9 },
      }),
      judge({
        goal: 'G7: local, CPU',
        product: 'restore',
        peer: 'restic dump',
        ratios: rows.local,
        target: { atMost: 0.5 },
      }),
    ]
  },
}

const words = ({ wallSeconds, cpuSeconds }: Spent) => `${wallSeconds.toFixed(2)} s/${cpuSeconds.toFixed(2)} CPU-s`

async function restoreThrough(store: ObjectStore, repository: BenchRepository, output: string): Promise<Spent> {
  await rm(output, { force: true })
  await using opened = await openThrough(store, repository)
  const [summary] = await opened.points()
  if (!summary) throw new Error('the repository holds no point')
  await using point = await opened.openPoint(summary, { pin: 'restore' })
  return await spent(() => restoreDisk(point, 'vda', { output, clock: systemClock, random: systemRandom }))
}

async function mustBeEqual(image: string, restored: string): Promise<void> {
  const [a, b] = [await digest(image), await digest(restored)]
  if (a !== b) throw new Error(`${restored} is not ${image}`)
}

async function digest(file: string): Promise<string> {
  const hash = createHash('sha1')
  for await (const part of createReadStream(file, { highWaterMark: 4 * MiB })) hash.update(part)
  return hash.digest('hex')
}

async function resticWith(dir: string, { v1 }: Images): Promise<Restic> {
  const restic = await makeRestic(dir, 'restic')
  await cost('restic', ['backup', '--quiet', '--no-cache', v1], restic.environment)
  return restic
}
