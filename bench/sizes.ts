/**
 * What the repository stores beside the chunks, scaled from a real image to one TiB of non-zero data, against what its design
 * expects at 64 KiB (docs/repository-format.md): nodes, footers, index, requests of a full backup; and the requests of the
 * smallest increment, which has one changed chunk.
 */
import { open } from 'node:fs/promises'
import path from 'node:path'
import { GiB, MiB } from '../src/core/limits.ts'
import { parseTrailer, trailerBytes } from '../src/repository/pack-codec.ts'
import { filesystemStore } from '../src/storage/filesystem.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { lifeboat } from './process-cost.ts'
import { type BackupDocument, makeRepository } from './repository.ts'
import { run } from './tools.ts'

const TiB = 1024 * GiB
/** Per TiB of non-zero data; PUTs at a compression of 2.6 : 1. */
const EXPECTED = { nodes: 579 * MiB, footers: 370 * MiB, index: 13 * MiB, puts: 25_700, smallestPuts: 5 }

export const goal: Goal = {
  id: 'sizes',
  title: 'metadata',
  async run({ dir, record, say }) {
    const { v1 } = await images()
    const image = path.join(dir, 'image.raw')
    await run('cp', ['--sparse=always', v1, image])
    const repository = await makeRepository(dir, 'repo')
    const backup = async (): Promise<BackupDocument> =>
      JSON.parse((await lifeboat(['backup', 'vm', '--image', `vda=${image}`, '--json'], repository.environment)).stdout)
    const full = await backup()
    const stored = await measure(filesystemStore(repository.path))
    await changeOneByte(image)
    const increment = await backup()

    const plain = full.disks[0]?.bytesNew ?? Number.NaN
    const perTiB = (bytes: number) => (bytes / plain) * TiB
    const ratio = stored.chunks / plain
    // The control objects of a backup do not grow with it.
    const packPuts = stored.packs + stored.metaPacks
    const figures = {
      nodes: perTiB(stored.nodes),
      footers: perTiB(stored.footers),
      index: perTiB(stored.index),
      puts: perTiB(packPuts) * (1 / 2.6 / ratio),
      smallestPuts: increment.requests.put.requests,
    }
    const share = (figures.nodes + figures.footers + figures.index) / TiB
    record('figures', { figures, stored, plain, ratio, share, increment: increment.requests })
    say(
      `per TiB: nodes ${mib(figures.nodes)}, footers ${mib(figures.footers)}, index ${mib(figures.index)} (${(share * 100).toFixed(3)} %); ` +
        `${figures.puts.toFixed(0)} PUTs at 2.6 : 1; one chunk changed: ${figures.smallestPuts} PUTs`,
    )
    const row = (what: keyof typeof EXPECTED, atMost: number) =>
      judge({
        goal: `sizes: ${what}`,
        product: 'repository',
        peer: what === 'puts' || what === 'smallestPuts' ? `${EXPECTED[what]} PUTs` : `${EXPECTED[what] / MiB} MiB/TiB`,
        ratios: [figures[what] / EXPECTED[what]],
        target: { atMost },
      })
    return [row('nodes', 1.1), row('footers', 1.1), row('index', 1.1), row('puts', 1.1), row('smallestPuts', 1)]
  },
}

const mib = (bytes: number) => `${(bytes / MiB).toFixed(0)} MiB`

async function changeOneByte(image: string): Promise<void> {
  await using file = await open(image, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, 512 * MiB)
  await file.write(Buffer.from([(byte[0] ?? 0) ^ 0xff]), 0, 1, 512 * MiB)
}

/** Bytes by kind: everything of a pack but the sealed records counts as its footer. */
async function measure(store: ObjectStore) {
  const sums = { chunks: 0, nodes: 0, footers: 0, index: 0, packs: 0, metaPacks: 0 }
  for await (const { key, size } of store.list('')) {
    if (key.startsWith('index/')) sums.index += size
    const isMeta = key.startsWith('meta/')
    if (!isMeta && !key.startsWith('packs/')) continue
    const bytes = await store.get(key, { offset: size - trailerBytes, length: trailerBytes })
    const { bodyLength } = parseTrailer(bytes, size, key)
    if (isMeta) {
      sums.nodes += bodyLength
      sums.metaPacks++
    } else {
      sums.chunks += bodyLength
      sums.packs++
    }
    sums.footers += size - bodyLength
  }
  return sums
}
