/**
 * What the repository stores beside the chunks, scaled from a real image to one TiB of non-zero data, against what its design
 * expects at 64 KiB (docs/repository-format.md): nodes, footers, index, requests of a full backup; and the requests of the
 * smallest increment, which has one changed chunk.
 */
import { open } from 'node:fs/promises'
import path from 'node:path'
import { GiB, KiB, MiB } from '../src/core/limits.ts'
import { seededRandom } from '../src/core/random.ts'
import { parseTrailer, trailerBytes } from '../src/repository/pack-codec.ts'
import { filesystemStore } from '../src/storage/filesystem.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { lifeboat } from './process-cost.ts'
import { type BackupDocument, type BenchRepository, makeRepository } from './repository.ts'
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
    const scattered: Record<string, Scattered> = {}
    for (const share of SCATTERED) scattered[share] = await scatteredIncrement(image, share, repository, backup)
    const randomPuts = await putsOfRandomData(path.join(dir, 'random.raw'), await makeRepository(dir, 'random'))

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
    record('figures', { figures, stored, plain, ratio, share, increment: increment.requests, scattered, randomPuts })
    for (const [part, { ofPlain, ofStored }] of Object.entries(scattered))
      say(
        `${Number(part) * 100} % scattered changes: metadata ${(ofPlain * 100).toFixed(1)} % of what changed, ${(ofStored * 100).toFixed(1)} % of that as stored`,
      )
    say(`incompressible: ${randomPuts.toFixed(0)} PUTs per TiB`)
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
    const atMost = (what: string, peer: string, ratio: number, most: number) =>
      judge({ goal: `sizes: ${what}`, product: 'repository', peer, ratios: [ratio], target: { atMost: most } })
    return [
      ...[row('nodes', 1.1), row('footers', 1.1), row('index', 1.1), row('puts', 1.1), row('smallestPuts', 1)],
      atMost('metadata of a full', '0.10 % of plain data', share / 0.001, 1),
      atMost('PUTs at 2.6 : 1', '30,000 for each TiB', figures.puts / 30_000, 1),
      atMost('PUTs, incompressible', '70,000 for each TiB', randomPuts / 70_000, 1),
      atMost('metadata at 1 % scattered', '10 % of what changed', (scattered['0.01']?.ofPlain ?? Number.NaN) / 0.1, 1),
      atMost(
        'metadata at 0.1 % scattered',
        '15 % of what changed',
        (scattered['0.001']?.ofPlain ?? Number.NaN) / 0.15,
        1,
      ),
      atMost('the same as stored, 1 %', '10 % of stored', (scattered['0.01']?.ofStored ?? Number.NaN) / 0.1, 1),
      atMost('the same as stored, 0.1 %', '15 % of stored', (scattered['0.001']?.ofStored ?? Number.NaN) / 0.15, 1),
    ]
  },
}

const mib = (bytes: number) => `${(bytes / MiB).toFixed(0)} MiB`

const CHUNK = 64 * KiB
/** Shares of all non-zero chunks that are rewritten, each at a random place. */
const SCATTERED = [0.01, 0.001]

interface Scattered {
  /** Nodes, footers, index and manifest, of the changed bytes of the disk, and of their records in the store. */
  readonly ofPlain: number
  readonly ofStored: number
}

async function scatteredIncrement(
  image: string,
  share: number,
  { path: folder }: BenchRepository,
  backup: () => Promise<BackupDocument>,
): Promise<Scattered> {
  const before = await measure(filesystemStore(folder))
  await rewriteChunks(image, share)
  const { disks } = await backup()
  const after = await measure(filesystemStore(folder))
  const metadata = (sums: typeof before) => sums.nodes + sums.footers + sums.index + sums.manifests
  const added = metadata(after) - metadata(before)
  return { ofPlain: added / (disks[0]?.bytesNew ?? Number.NaN), ofStored: added / (after.chunks - before.chunks) }
}

/** Contents that compress like the disk's own and are nowhere else: another chunk of it, every 512 bytes re-keyed. */
async function rewriteChunks(image: string, share: number): Promise<void> {
  const random = seededRandom(`scattered ${share}`)
  const place = () => (Buffer.from(random(6)).readUIntBE(0, 6) % (GiB / CHUNK)) * CHUNK
  await using file = await open(image, 'r+')
  const chunk = Buffer.alloc(CHUNK)
  const readUsed = async (): Promise<number> => {
    for (;;) {
      const at = place()
      await file.read(chunk, 0, CHUNK, at)
      if (chunk.some(byte => byte !== 0)) return at
    }
  }
  for (let n = 0; n < (741 * MiB * share) / CHUNK; n++) {
    const target = await readUsed()
    await readUsed()
    for (let at = 0; at < CHUNK; at += 512) chunk.set(random(16), at)
    await file.write(chunk, 0, CHUNK, target)
  }
}

async function putsOfRandomData(image: string, { environment }: BenchRepository): Promise<number> {
  const bytes = 256 * MiB
  await run('bash', ['-c', `head -c ${bytes} /dev/urandom > "$1"`, '-', image])
  const { stdout } = await lifeboat(['backup', 'vm', '--image', `vda=${image}`, '--json'], environment)
  const { requests }: BackupDocument = JSON.parse(stdout)
  // Lease, index, manifest and one meta pack, whatever the size.
  return ((requests.put.requests - 4) / bytes) * TiB
}

async function changeOneByte(image: string): Promise<void> {
  await using file = await open(image, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, 512 * MiB)
  await file.write(Buffer.from([(byte[0] ?? 0) ^ 0xff]), 0, 1, 512 * MiB)
}

/** Bytes by kind: everything of a pack but the sealed records counts as its footer. */
async function measure(store: ObjectStore) {
  const sums = { chunks: 0, nodes: 0, footers: 0, index: 0, manifests: 0, packs: 0, metaPacks: 0 }
  for await (const { key, size } of store.list('')) {
    if (key.startsWith('index/')) sums.index += size
    if (key.startsWith('points/')) sums.manifests += size
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
