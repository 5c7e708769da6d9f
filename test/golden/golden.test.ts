/** Repositories of every format version must open for ever. These were made once (scripts/make-golden.ts) and never change. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { parseKeyFile } from '../../src/crypto/key-file.ts'
import type { Credential } from '../../src/crypto/keys.ts'
import type { Pipeline } from '../../src/native/pipeline.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import { digestOfDisk, openGolden } from '../doubles/golden.ts'

interface Expected {
  readonly repository: string
  readonly chunkSize: number
  readonly points: readonly {
    readonly point: string
    readonly vm: string
    readonly disks: Readonly<Record<string, { readonly size: number; readonly sha256: string }>>
  }[]
}

const folder = join(import.meta.dirname, 'format-1')
const expected: Record<'encrypted' | 'plain', Expected> = JSON.parse(await readFile(join(folder, 'expected.json'), 'utf8'))
const keyFile = join(folder, 'encrypted.key')
const secret = parseKeyFile(await readFile(keyFile, 'utf8'), keyFile)

async function reads(name: 'encrypted' | 'plain', credential: Credential, pipeline?: Pipeline): Promise<void> {
  await using golden = await openGolden(join(folder, name), credential, pipeline)
  const { repository } = golden
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
    for (const [disk, digest] of Object.entries(disks))
      assert.deepEqual(await digestOfDisk(point, disk), digest, `${vm} ${wanted} ${disk}`)
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
