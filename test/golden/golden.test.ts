/** Repositories of every format version must open for ever. These were made once (scripts/make-golden.ts) and never change. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { systemRandom } from '../../src/core/random.ts'
import { parseKeyFile } from '../../src/crypto/key-file.ts'
import type { Credential } from '../../src/crypto/keys.ts'
import { loadPipeline } from '../../src/native/native.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { pointImage } from '../../src/repository/image.ts'
import { openRepository } from '../../src/repository/open.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'

interface Expected {
  readonly repository: string
  readonly chunkSize: number
  readonly points: readonly {
    readonly point: string
    readonly vm: string
    readonly disks: Readonly<Record<string, { readonly size: number; readonly sha256: string }>>
  }[]
}

const golden = join(import.meta.dirname, 'format-1')
const expected: Record<'encrypted' | 'plain', Expected> = JSON.parse(await readFile(join(golden, 'expected.json'), 'utf8'))
const keyFile = join(golden, 'encrypted.key')
const secret = parseKeyFile(await readFile(keyFile, 'utf8'), keyFile)
// A reader pins what it reads, so that it gets a copy.
const scratch = await mkdtemp(join(tmpdir(), 'lifeboat-golden-'))
after(() => rm(scratch, { recursive: true, force: true }))

async function reads(name: 'encrypted' | 'plain', credential: Credential, pipeline = loadPipeline()): Promise<void> {
  const copy = await mkdtemp(join(scratch, `${name}-`))
  await cp(join(golden, name), copy, { recursive: true })
  await using store = filesystemStore(copy)
  await using repository = await openRepository({
    store,
    credential,
    clock: systemClock,
    random: systemRandom,
    host: 'golden',
    pipeline,
  })
  const { repository: id, chunkSize, points } = expected[name]
  assert.deepEqual([repository.id, repository.chunkSize], [id, chunkSize])
  const listed = await repository.points()
  assert.deepEqual(listed.map(point => point.id).sort(), points.map(({ point }) => point).sort())
  for (const { point: wanted, vm, disks } of points) {
    const summary = listed.find(({ id }) => id === wanted)!
    await using point = await repository.openPoint(summary, { pin: 'restore' })
    assert.equal(point.manifest.vm, vm)
    assert.equal(new TextDecoder().decode(point.manifest.firmwareVariables), 'firmware')
    assert.deepEqual(point.manifest.disks.map(disk => disk.name), Object.keys(disks))
    for (const [disk, { size, sha256 }] of Object.entries(disks)) {
      await using image = pointImage(point.disk(disk))
      assert.equal(image.size, size)
      const bytes = new Uint8Array(size)
      await image.readInto(bytes, 0)
      assert.equal(createHash('sha256').update(bytes).digest('hex'), sha256, `${vm} ${wanted} ${disk}`)
    }
  }
  assert.deepEqual((await verifyPoints(repository, { points: listed })).problems, [])
}

test('the encrypted repository of format 1 opens with its key file and reads as it always did', () =>
  reads('encrypted', { kind: 'file', secret }))

test('the encrypted repository of format 1 opens with its passphrase', () =>
  reads('encrypted', { kind: 'passphrase', passphrase: 'golden' }))

test('the plain repository of format 1 opens without a key and reads as it always did', () =>
  reads('plain', { kind: 'none' }))

test('the pipeline in plain TypeScript reads them too', () => reads('encrypted', { kind: 'file', secret }, twinPipeline))
