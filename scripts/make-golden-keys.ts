/**
 * Made test/golden/format-1-keys once: several keys, epochs and a domain of its own. Never run it again, like make-golden.ts.
 */
import { createHash } from 'node:crypto'
import { mkdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { systemClock } from '../src/core/clock.ts'
import { hex, type PointId, pointId } from '../src/core/ids.ts'
import { seededRandom } from '../src/core/random.ts'
import { formatKeyFile } from '../src/crypto/key-file.ts'
import type { Credential } from '../src/crypto/keys.ts'
import { startEpochs } from '../src/maintenance/epochs.ts'
import { addKey, rotateKey } from '../src/maintenance/keys.ts'
import { maintenanceContext } from '../src/maintenance/maintenance.ts'
import { loadPipeline } from '../src/native/native.ts'
import { initRepository } from '../src/repository/init.ts'
import { openRepository } from '../src/repository/open.ts'
import { filesystemStore } from '../src/storage/filesystem.ts'
import { memoryStore } from '../src/storage/memory.ts'
import { goldenKeeper } from '../test/doubles/golden-keeper.ts'

const folder = join(import.meta.dirname, '..', 'test', 'golden', 'format-1-keys')
const there = await stat(folder).then(
  () => true,
  () => false,
)
if (there) throw new Error(`${folder} exists: golden repositories are never made again`)

const C = 4096
const random = seededRandom('golden keys')
const clock = systemClock
const secrets = { removed: random(32), second: random(32), rotated: random(32) }
const file = (secret: Uint8Array): Credential => ({ kind: 'file', secret })
const store = memoryStore()
await initRepository({ store, credential: file(secrets.removed), chunkSize: C, random, clock })
const open = (credential: Credential) =>
  openRepository({ store, credential, random, clock, host: 'golden', pipeline: loadPipeline() })
const repository = await open(file(secrets.removed))
const context = {
  ...maintenanceContext(repository, 'golden'),
  slot: repository.slot!,
  credential: file(secrets.removed),
}

const images = new Map<string, Uint8Array>()
const points: unknown[] = []
let minute = 0
async function write(vm: string, ownDomain: boolean, base: PointId | undefined, chunks: readonly number[]) {
  const point = pointId(hex(random(8)))
  const takenAt = new Date(Date.UTC(2026, 10, 21, 10, minute++))
  const image = images.get(vm)?.slice() ?? new Uint8Array(70 * C)
  const bases = base ? [base] : []
  await using writer = await repository.beginPoint({ vm, point, takenAt, kind: 'backup', bases, ownDomain })
  const disk = await writer.disk({ name: 'vda', size: image.length, base, description: { bus: 'virtio' } })
  for (const chunk of chunks) {
    const bytes = random(C)
    image.set(bytes, chunk * C)
    await disk.write(chunk * C, bytes.slice())
  }
  await disk.finish({ bytesRead: 0 })
  images.set(vm, image)
  const kind = base ? 'incremental' : 'full'
  await writer.commit({ kind, consistency: 'crash', description: {}, omitted: [] })
  points.push({ point, vm, sha256: createHash('sha256').update(image).digest('hex') })
  return point
}

const web = await write('web', false, undefined, [0, 1, 66])
const tenant = await write('tenant', true, undefined, [0, 2])
await startEpochs(context)
const web1 = await write('web', false, web, [1])
const tenant1 = await write('tenant', false, tenant, [3])
await startEpochs(context)
await write('web', false, web1, [2, 69])
await write('tenant', false, tenant1, [69])

const scryptCost = { N: 1024, r: 8, p: 1 }
await addKey(context, file(secrets.second))
await addKey(context, { kind: 'passphrase', passphrase: 'golden' }, { scryptCost })
await addKey(context, { kind: 'passphrase', passphrase: 'another one' }, { scryptCost })
await addKey(context, goldenKeeper)
await rotateKey(context, file(secrets.rotated))

await mkdir(join(folder, 'repository'), { recursive: true })
await using target = filesystemStore(join(folder, 'repository'))
for (const [key, { bytes }] of store.snapshot()) await target.put(key, [bytes])
for (const [name, secret] of Object.entries(secrets))
  await writeFile(join(folder, `${name}.key`), formatKeyFile(secret, ['A test key: it protects nothing.']))
await writeFile(join(folder, 'expected.json'), `${JSON.stringify({ repository: repository.id, points }, null, 2)}\n`)
