/** A repository with several keys, epochs and a domain of its own, made once (scripts/make-golden-keys.ts): it must open for ever. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { parseKeyFile } from '../../src/crypto/key-file.ts'
import type { Credential } from '../../src/crypto/keys.ts'
import { digestOfDisk, openGolden, sha256Of } from '../doubles/golden.ts'
import { goldenKeeper } from '../doubles/golden-keeper.ts'

interface Expected {
  readonly repository: string
  readonly points: readonly { readonly point: string; readonly vm: string; readonly sha256: string }[]
}

const golden = join(import.meta.dirname, 'format-1-keys')
const expected: Expected = JSON.parse(await readFile(join(golden, 'expected.json'), 'utf8'))
const scratch = await mkdtemp(join(tmpdir(), 'lifeboat-golden-keys-'))
after(() => rm(scratch, { recursive: true, force: true }))
const keyFile = (name: string): string => join(golden, `${name}.key`)
const file = async (name: string): Promise<Credential> => ({
  kind: 'file',
  secret: parseKeyFile(await readFile(keyFile(name), 'utf8'), name),
})

async function reads(credential: Credential): Promise<void> {
  await using opened = await openGolden(join(golden, 'repository'), credential)
  const { repository } = opened
  assert.equal(repository.id, expected.repository)
  const listed = await repository.points()
  assert.equal(listed.length, expected.points.length)
  for (const { point: wanted, vm, sha256 } of expected.points) {
    await using point = await repository.openPoint(listed.find(({ id }) => id === wanted)!, { pin: 'restore' })
    assert.equal((await digestOfDisk(point, 'vda')).sha256, sha256, `${vm} ${wanted}`)
  }
}

test('each key of a repository opens all its epochs and domains', async () => {
  for (const name of ['second', 'rotated']) await reads(await file(name))
  for (const passphrase of ['golden', 'another one']) await reads({ kind: 'passphrase', passphrase })
  await reads(goldenKeeper)
})

test('the key that was exchanged opens it no more', async () => {
  await assert.rejects(reads(await file('removed')), { code: 'key-wrong' })
})

test('the program without dependencies opens each epoch and domain with each key file and passphrase', async () => {
  const ways: readonly [words: readonly string[], passphrase?: string][] = [
    [['--key-file', keyFile('second')]],
    [['--key-file', keyFile('rotated')]],
    [[], 'golden'],
    [[], 'another one'],
  ]
  const program = join(import.meta.dirname, '../../recover/recover.mjs')
  let restored = 0
  for (const [words, passphrase] of ways)
    for (const { point, vm, sha256 } of expected.points) {
      const output = join(scratch, `disk-${restored++}`)
      const call = [program, '--repo', join(golden, 'repository'), ...words, `${vm}@${point}/vda`, '--output', output]
      await promisify(execFile)(process.execPath, call, { env: { ...process.env, LIFEBOAT_PASSPHRASE: passphrase } })
      assert.equal(sha256Of(await readFile(output)), sha256, `${vm} ${point}`)
    }
  assert.equal(restored, 24)
})
