/**
 * Files out of a guest over a store with 10 ms latency behind a link of 150 MB/s: a tree of 1 GiB, and one of 19,000 small files that
 * compress, of ext4 filesystems, read by the sandboxed reader into a folder in memory, against the link: 16 parallel GETs of 1 MiB over the same packs.
 */
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { ChunkCache } from '../src/cache/chunk-cache.ts'
import { systemClock } from '../src/core/clock.ts'
import { MiB } from '../src/core/limits.ts'
import type { Copied } from '../src/files/copied.ts'
import { copyOut } from '../src/files/copy-out.ts'
import { readerGuests } from '../src/guest/reader.ts'
import { openDisks } from '../src/recovery/export.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import { distant } from './distant-store.ts'
import { type BenchContext, type Goal, judge, type Row } from './goal.ts'
import { images } from './images.ts'
import { LINK, packsOf, readAll } from './link.ts'
import { memoryFolder } from './memory-folder.ts'
import { lifeboat } from './process-cost.ts'
import { type BenchRepository, makeRepository } from './repository.ts'
import { copiedToMemory, openThrough } from './repository-in-memory.ts'
import { type Spent, spent } from './spent.ts'
import { run } from './tools.ts'
import { treeImage } from './tree-image.ts'

export const goal: Goal = {
  id: 'files-get',
  title: 'files get of a whole tree',
  async run(context) {
    const trees = [
      { name: '1 GiB in 2,048 files', image: await treeImage() },
      { name: 'small files', image: (await images()).v1 },
    ]
    const rows: Row[] = []
    for (const tree of trees) rows.push(await measure(context, tree.name, tree.image))
    return rows
  },
}

async function measure({ dir, rounds, record, say }: BenchContext, name: string, image: string): Promise<Row> {
  await using scratch = await memoryFolder()
  const repository = await makeRepository(dir, path.basename(image))
  await lifeboat(['backup', 'vm', '--image', `vda=${image}`, '--json'], repository.environment)
  const memory = await copiedToMemory(repository)
  await rm(repository.path, { recursive: true })
  const packs = await packsOf(memory)
  const ratios: number[] = []
  for (let round = 0; round < rounds; round++) {
    const output = path.join(scratch.path, `out-${round}`)
    const limit = await spent(() => readAll(distant(memory, LINK), packs))
    const got = await getThrough(distant(memory, LINK), repository, output)
    if (round === 0) await mustBeEqual(image, output)
    await rm(output, { recursive: true, force: true })
    ratios.push(limit.wallSeconds / got.wallSeconds)
    record(`${name}, round ${round}`, { limit, got })
    say(`${name}: link ${words(limit)}; ${got.files} files of ${Math.round(got.bytes / MiB)} MiB over it ${words(got)}`)
  }
  const target = { atLeast: 0.6 }
  return judge({ goal: `files get: ${name}`, product: 'files get', peer: '16 parallel GETs', ratios, target })
}

const words = ({ wallSeconds, cpuSeconds }: Spent) => `${wallSeconds.toFixed(2)} s/${cpuSeconds.toFixed(2)} CPU-s`

async function getThrough(
  store: ObjectStore,
  repository: BenchRepository,
  output: string,
): Promise<Spent & { readonly files: number; readonly bytes: number }> {
  await using opened = await openThrough(store, repository)
  const [point] = await opened.points()
  if (!point) throw new Error('the repository holds no point')
  const cache = new ChunkCache({ maxBytes: 256 * MiB })
  let copied: Copied | undefined
  const cost = await spent(async () => {
    await using disks = await openDisks({ repository: opened, point, cache, pin: 'restore' })
    const guest = readerGuests({ clock: systemClock, treePrefix: () => 'bench' })
    await using filesystems = await guest(disks.disks.map(({ name, base }) => ({ name, image: base })))
    const { root } = await filesystems.open('vda-whole')
    copied = await copyOut([{ path: [], node: root }], output, { resumeKey: 'bench', setuid: true, devices: true })
  })
  if (!copied || copied.problems.count > 0) throw new Error(`not all came: ${JSON.stringify(copied?.problems.first)}`)
  return { ...cost, files: copied.files, bytes: copied.bytes }
}

/** By another reader of ext4. */
async function mustBeEqual(image: string, restored: string): Promise<void> {
  const script = `mkdir -p "$2.debugfs"; debugfs -R "rdump / $2.debugfs" "$1" 2> /dev/null
    diff -r --no-dereference --brief "$2" "$2.debugfs"; rm -rf "$2.debugfs"`
  await run('bash', ['-ec', script, 'bash', image, restored], { maxBuffer: 16 * MiB })
}
