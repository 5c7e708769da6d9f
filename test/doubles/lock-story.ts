/** A repository with locks by the command line, and somebody with its store credentials who deletes and overwrites all of it. */
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import {
  DeleteObjectCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { type CommandLine, commandLine } from './command-line.ts'
import { patternBytes } from './pattern.ts'
import type { S3Place } from './plain-s3.ts'

export interface LockStory {
  readonly place: S3Place
  /** With Object Lock. */
  readonly bucket: string
  /** Without. */
  readonly plainBucket: string
}

const KINDS = /^(config|keys|points|packs|meta|audit)/

export async function lockStory({ place, bucket, plainBucket }: LockStory): Promise<Readonly<Record<string, number>>> {
  await using t = commandLine({
    AWS_ACCESS_KEY_ID: place.credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: place.credentials.secretAccessKey,
  })
  const urlOf = (name: string) => `s3://${name}/site?endpoint=${place.endpoint}&region=us-east-1`
  t.environment.LIFEBOAT_KEY_FILE = t.at('key')
  t.environment.LIFEBOAT_REPO = urlOf(plainBucket)
  const short = await t.json('init --lock-mode compliance --lock-for 1h --renew-every 40m')
  assert.equal(short.code, 2)
  assert.match(short.error.message ?? '', /1h is less than twice --renew-every 40m \(2 x 40m = 80m\)/)
  const unsuitable = await t.json('init --lock-mode compliance --lock-for 4h')
  assert.equal(unsuitable.error.code, 'store-unsuitable', unsuitable.stderr)

  t.environment.LIFEBOAT_REPO = urlOf(bucket)
  const made = await good<{ lock: object }>(t, 'init --lock-mode compliance --lock-for 4h')
  assert.deepEqual(made.lock, { mode: 'compliance', forMs: 4 * 3_600_000, renewEveryMs: 3_600_000 })
  const content = patternBytes(3 << 20, 1)
  await writeFile(t.at('disk.raw'), content)
  await good(t, `backup vm --image vda=${t.at('disk.raw')}`)
  patternBytes(200_000, 2).copy(content, 70_000)
  await writeFile(t.at('disk.raw'), content)
  await good(t, `backup vm --image vda=${t.at('disk.raw')}`)
  const before = await good<Points>(t, 'points')
  for (const { lockedUntil } of before.points) assert.ok(Date.parse(lockedUntil) > Date.now() + 4.5 * 3_600_000)
  const forgotten = await t.json(`forget vm@${before.points[0]!.id}`)
  assert.equal(forgotten.error.code, 'point-protected', forgotten.stderr)
  assert.match(forgotten.error.message ?? '', /locked until/)
  const renewal = await good<{ objects: number; extended: number }>(t, 'lock renew')
  assert.ok(renewal.objects >= 8 && renewal.extended === 0, JSON.stringify(renewal))

  const seen = await attack(place, bucket)
  assert.ok(seen.hidden >= 4 && seen.overwritten >= 4 && seen.refused >= 8, JSON.stringify(seen))
  const during = await t.json('points')
  assert.equal(during.code, 4, during.stderr)
  assert.deepEqual(ids(during.json), before.points.map(({ id }) => id).sort())
  assert.match(await restores(t, content), /somebody has deleted or overwritten/)
  const verified = await t.json('verify --all')
  assert.equal(verified.code, 4)
  const kinds = (verified.json as { problems: { kind: string }[] }).problems.map(({ kind }) => kind)
  assert.deepEqual([...new Set(kinds)].sort(), ['hidden', 'overwritten'], verified.stdout)
  assert.equal((await t.json('lock renew')).code, 4)
  await restores(t, content)

  const repaired = await good<{ uncovered: string[] }>(t, 'lock repair')
  assert.ok(repaired.uncovered.length >= seen.hidden + seen.overwritten, JSON.stringify(repaired))
  assert.deepEqual((await good<{ problems: unknown[] }>(t, 'verify --all')).problems, [])
  await good(t, 'points')
  const shown = await good<Points>(t, 'lock show vm@latest')
  assert.ok(Date.parse(shown.points[0]!.lockedUntil) > Date.now() + 4 * 3_600_000)
  await good(t, ['hold', 'add', 'vm@latest', '--reason', 'audit'])
  await good(t, 'hold remove vm@latest')
  await good(t, 'gc --grace 0s')
  assert.doesNotMatch(await restores(t, content), /somebody/)
  return seen
}

interface Points {
  readonly points: readonly { readonly id: string; readonly lockedUntil: string }[]
}

const ids = (document: unknown): string[] => (document as Points).points.map(({ id }) => id).sort()

async function good<T>(t: CommandLine, words: string | readonly string[]): Promise<T> {
  const answer = await t.json(words)
  assert.equal(answer.code, 0, `${words}: ${answer.stderr}`)
  return answer.json as T
}

/** What it said besides. */
async function restores(t: CommandLine, content: Uint8Array): Promise<string> {
  const answer = await t.json(`restore vm@latest/vda --output ${t.at('out.raw')} --force`)
  assert.equal(answer.code, 0, answer.stderr)
  assert.ok((await readFile(t.at('out.raw'))).equals(content), 'restored bit by bit')
  return answer.stderr
}

/** Tries to delete every version of everything; then hides every second object under a marker and puts noise over the others. */
async function attack({ endpoint, credentials }: S3Place, Bucket: string) {
  const client = new S3Client({
    endpoint,
    credentials: { ...credentials },
    region: 'us-east-1',
    forcePathStyle: true,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  })
  const seen = { refused: 0, deleted: 0, hidden: 0, overwritten: 0 }
  const { Versions = [] } = await client.send(new ListObjectVersionsCommand({ Bucket }))
  for (const { Key, VersionId } of Versions) {
    const deletion = client.send(new DeleteObjectCommand({ Bucket, Key, VersionId }))
    await deletion.then(
      () => seen.deleted++,
      () => seen.refused++,
    )
  }
  const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket }))
  for (const [n, { Key = '' }] of Contents.filter(({ Key = '' }) => KINDS.test(Key.slice('site/'.length))).entries())
    if (n % 2 === 0) {
      await client.send(new DeleteObjectCommand({ Bucket, Key }))
      seen.hidden++
    } else {
      await client.send(new PutObjectCommand({ Bucket, Key, Body: patternBytes(1000, n) }))
      seen.overwritten++
    }
  client.destroy()
  return seen
}
