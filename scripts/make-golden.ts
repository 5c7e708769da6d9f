/**
 * Made test/golden/format-1 once. Never run it again for a version of the format that exists: those repositories stand for
 * what is stored out there, and must open for ever as they are. A new version of the format gets a new folder.
 */
import { createHash } from 'node:crypto'
import { mkdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { systemClock } from '../src/core/clock.ts'
import { hex, type PointId, pointId, repositoryId } from '../src/core/ids.ts'
import { seededRandom } from '../src/core/random.ts'
import { formatKeyFile } from '../src/crypto/key-file.ts'
import { encodeKeySlot, keyFileSlot, parseKeySlot, unwrapKeySlot, wrapForPassphrase } from '../src/crypto/key-slot.ts'
import type { Credential } from '../src/crypto/keys.ts'
import { loadPipeline } from '../src/native/native.ts'
import { initRepository } from '../src/repository/init.ts'
import { slotKey } from '../src/repository/object-keys.ts'
import { openRepository } from '../src/repository/open.ts'
import { filesystemStore } from '../src/storage/filesystem.ts'
import { type MemoryStore, memoryStore } from '../src/storage/memory.ts'
import { rewritePack } from '../test/doubles/rewritten-pack.ts'

const folder = join(import.meta.dirname, '..', 'test', 'golden', 'format-1')
const secret = seededRandom('golden key')(32)
const passphrase = 'golden'

type Write = readonly [chunk: number, bytes: Uint8Array]

interface GoldenDisk {
  readonly name: string
  readonly size: number
  readonly writes: readonly Write[]
}

async function make(name: 'encrypted' | 'plain', credential: Credential, chunkSize: number): Promise<unknown> {
  const random = seededRandom(`golden ${name}`)
  const store = memoryStore()
  await initRepository({ store, credential, chunkSize, random, clock: systemClock })
  if (credential.kind === 'file') await addPassphrase(store, credential)
  const repository = await openRepository({
    store,
    credential,
    random,
    clock: systemClock,
    host: 'golden',
    pipeline: loadPipeline(),
  })
  const images = new Map<string, Uint8Array>()
  const points: unknown[] = []
  const write = async (vm: string, minute: number, base: PointId | undefined, disks: readonly GoldenDisk[]) => {
    const point = pointId(hex(random(8)))
    const takenAt = new Date(Date.UTC(2026, 10, 21, 10, minute))
    await using writer = await repository.beginPoint({ vm, point, takenAt, kind: 'backup', bases: base ? [base] : [] })
    const digests: Record<string, unknown> = {}
    for (const disk of disks) {
      const image = new Uint8Array(disk.size)
      image.set((images.get(`${vm}/${disk.name}`) ?? new Uint8Array(0)).subarray(0, disk.size))
      const target = await writer.disk({ name: disk.name, size: disk.size, base, description: { bus: 'virtio' } })
      for (const [chunk, bytes] of disk.writes) {
        image.set(bytes, chunk * chunkSize)
        await target.write(chunk * chunkSize, bytes.slice())
      }
      await target.finish({ bytesRead: 0 })
      images.set(`${vm}/${disk.name}`, image)
      digests[disk.name] = { size: disk.size, sha256: createHash('sha256').update(image).digest('hex') }
    }
    await writer.commit({
      kind: base ? 'incremental' : 'full',
      consistency: 'crash',
      description: { memory: 512 },
      firmwareVariables: new TextEncoder().encode('firmware'),
      omitted: [{ name: 'cd0', reason: 'removable' }],
    })
    points.push({ point, vm, disks: digests })
    return point
  }
  const noise = (seed: string, chunks: number) => seededRandom(seed)(chunks * chunkSize)
  const text = (chunks: number) => new Uint8Array(chunks * chunkSize).fill(0x41)
  const tail = seededRandom('tail')(100)

  // Holes, compressible and incompressible chunks, an end inside a chunk, several leaves.
  const full = await write('web', 0, undefined, [
    {
      name: 'vda',
      size: 199 * chunkSize + 100,
      writes: [
        [0, noise('boot', 2)],
        [70, text(3)],
        [130, noise('b', 1)],
        [199, tail],
      ],
    },
    { name: 'vdb', size: 3 * chunkSize, writes: [] },
  ])
  const afterFull = packs(store)
  const increment = await write('web', 1, full, [
    {
      name: 'vda',
      size: 199 * chunkSize + 100,
      writes: [
        [1, noise('changed', 1)],
        [71, new Uint8Array(chunkSize)],
      ],
    },
    { name: 'vdb', size: 3 * chunkSize, writes: [[2, text(1)]] },
  ])
  // One disk grows, the other shrinks into the middle of a chunk.
  await write('web', 2, increment, [
    { name: 'vda', size: 300 * chunkSize, writes: [[299, noise('grown', 1)]] },
    { name: 'vdb', size: 2 * chunkSize + 7, writes: [] },
  ])
  await write('m\u00fcller & co', 3, undefined, [{ name: 'vda', size: 2 * chunkSize, writes: [[0, noise('boot', 2)]] }])
  // Compaction: of the first backup's packs only rewritten objects are left.
  for (const [n, pack] of afterFull.entries()) {
    await rewritePack({ store, repository, random }, pack, `00000000000000a${n}`)
    store.tamper(pack, undefined)
  }
  await mkdir(join(folder, name), { recursive: true })
  await using target = filesystemStore(join(folder, name))
  for (const [key, { bytes }] of store.snapshot()) await target.put(key, [bytes])
  return { repository: repository.id, chunkSize, points }
}

const packs = (store: MemoryStore): string[] =>
  [...store.snapshot().keys()].filter(key => key.startsWith('packs/') || key.startsWith('meta/')).sort()

async function addPassphrase(store: MemoryStore, credential: Extract<Credential, { kind: 'file' }>): Promise<void> {
  const config: { repository: string } = JSON.parse(new TextDecoder().decode(await store.get('config')))
  const repository = repositoryId(config.repository)
  const object = slotKey(keyFileSlot(credential.secret, repository))
  const repositoryKey = await unwrapKeySlot(parseKeySlot(await store.get(object), object), credential, repository)
  const request = { repository, repositoryKey, created: new Date(), random: seededRandom('golden slot') }
  const slot = await wrapForPassphrase(passphrase, request, { cost: { N: 1024, r: 8, p: 1 } })
  await store.put(slotKey(slot.slot), [encodeKeySlot(slot)])
}

const exists = await stat(folder).then(
  () => true,
  () => false,
)
if (exists) throw new Error(`${folder} exists: golden repositories are never made again`)
await mkdir(folder, { recursive: true })
const expected = {
  encrypted: await make('encrypted', { kind: 'file', secret }, 4096),
  plain: await make('plain', { kind: 'none' }, 65_536),
}
await writeFile(
  join(folder, 'encrypted.key'),
  formatKeyFile(secret, ['A test key: it protects nothing. The passphrase is "golden".']),
)
await writeFile(join(folder, 'expected.json'), `${JSON.stringify(expected, null, 2)}\n`)
