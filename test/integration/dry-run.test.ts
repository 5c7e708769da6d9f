/** Dry runs: nothing changes anywhere, and what they say is what the same command then really asks of the store. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdir, open, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import type { StoreFigures } from '../../src/storage/metered.ts'
import { type CommandLine, commandLine, everythingIn } from '../doubles/command-line.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking } from '../doubles/peer-tools.ts'
import { KiB, MiB, qemuMissing, startQemu } from '../doubles/qemu.ts'

interface Document {
  readonly estimated?: boolean
  readonly isUpperBound?: boolean
  readonly requests: StoreFigures
  readonly bytesKept?: number
  readonly bytesFetched?: number
  readonly bytesWritten?: number
  readonly bytesRewritten?: number
  readonly bytesFreed?: number
  readonly bytes?: number
  readonly cost?: {
    readonly currency: string
    readonly prices: string
    readonly requests: number
    readonly isAssumed: boolean
  }
  readonly disks: readonly {
    readonly bytesRead: number | null
    readonly bytesChanged: number | null
    readonly bytesStored?: number
  }[]
}

async function newRepository(): Promise<CommandLine> {
  const t = commandLine()
  t.environment.LIFEBOAT_REPO = t.at('repository')
  t.environment.LIFEBOAT_KEY_FILE = t.at('key')
  await lifeboat(t, 'init')
  return t
}

async function lifeboat(t: CommandLine, words: string): Promise<Document> {
  const { code, stderr, json } = await t.json(words)
  assert.equal(code, 0, `${words}: ${stderr}`)
  return json as Document
}

/** The command dry, then in earnest; between them nothing but the state of this host may have changed. */
async function both(t: CommandLine, words: string): Promise<{ dry: Document; real: Document }> {
  const before = await everythingIn(t.at('repository'))
  const dry = await lifeboat(t, `${words} --dry-run`)
  assert.equal(dry.estimated, true)
  assert.deepEqual(await everythingIn(t.at('repository')), before, 'the repository was changed')
  return { dry, real: await lifeboat(t, words) }
}

/** Each verb within the factor, or within two requests; bytes within the factor, or 64 KiB. */
function assertClose(
  dry: StoreFigures,
  real: StoreFigures,
  factor: number,
  verbs: readonly (keyof StoreFigures)[],
): void {
  const isClose = (a: number, b: number, slack: number) => a <= b * factor + slack && b <= a * factor + slack
  for (const verb of verbs) {
    const text = `${verb}: estimated ${JSON.stringify(dry[verb])}, really ${JSON.stringify(real[verb])}`
    assert.ok(isClose(dry[verb].requests, real[verb].requests, 2), text)
    assert.ok(isClose(dry[verb].bytes, real[verb].bytes, 64 * KiB), text)
  }
}

async function image(t: CommandLine): Promise<string> {
  const file = t.at('disk.raw')
  await writeFile(file, '')
  await using handle = await open(file, 'r+')
  await handle.truncate(96 * MiB)
  await handle.write(patternBytes(40 * MiB), 0, 40 * MiB, 8 * MiB)
  await handle.write(Buffer.alloc(6 * MiB, 'much the same '), 0, 6 * MiB, 64 * MiB)
  return file
}

async function scribble(file: string, blocks: number): Promise<void> {
  await using handle = await open(file, 'r+')
  for (let n = 0; n < blocks; n++)
    await handle.write(patternBytes(4 * KiB, n + 7), 0, 4 * KiB, 8 * MiB + n * 1400 * KiB)
}

test('backup of images, restore and verify: a dry run asks for what the run then takes, within 1.1', async () => {
  await using t = await newRepository()
  const file = await image(t)
  await mkdir(t.at('state'), { recursive: true })
  const verbs = ['get', 'head', 'put', 'list', 'delete'] as const
  for (const round of ['full', 'incremental']) {
    const state = await everythingIn(t.at('state'))
    const dry = await lifeboat(t, `backup vm --image vda=${file} --dry-run`)
    const scans = Object.keys(state).filter(name => name.endsWith('.scan'))
    const after = await everythingIn(t.at('state'))
    for (const scan of scans) assert.equal(after[scan], state[scan], 'the state of the scan was changed')
    const { dry: again, real } = await both(t, `backup vm --image vda=${file}`)
    assert.deepEqual(again.disks, dry.disks)
    assertClose(dry.requests, real.requests, 1.1, verbs)
    const [disk] = real.disks
    assert.equal(dry.disks[0]?.bytesChanged, disk?.bytesChanged, round)
    assert.equal(dry.disks[0]?.bytesStored, disk?.bytesStored, round)
    assert.ok(
      Math.abs((dry.bytesKept ?? 0) - real.requests.put.bytes) < 4 * KiB,
      'what is kept is what is put, but the lease',
    )
    await scribble(file, 25)
  }
  for (const words of [`restore vm@latest/vda --output ${t.at('out.raw')}`, 'verify --all', 'verify vm@latest']) {
    const { dry, real } = await both(t, words)
    // The pin goes after the result is told.
    assertClose(dry.requests, real.requests, 1.1, ['get', 'head', 'put', 'list'])
    assert.equal(dry.bytesFetched ?? dry.bytes, real.bytesFetched ?? real.bytes, words)
    assert.equal(dry.bytesWritten, real.bytesWritten, words)
  }
})

test('gc: a dry run tells the requests, the space and the money of the collection, within 2', async () => {
  await using t = await newRepository()
  const file = await image(t)
  await lifeboat(t, `backup vm --image vda=${file}`)
  // Half of the first pack is needed no more, so that it is rewritten.
  await using handle = await open(file, 'r+')
  await handle.write(patternBytes(9 * MiB, 99), 0, 9 * MiB, 8 * MiB)
  await lifeboat(t, `backup vm --image vda=${file}`)
  await lifeboat(t, 'forget vm@latest~1')
  await writeFile(t.at('lifeboat.yaml'), 'prices: aws-s3-standard\n')
  const before = await everythingIn(t.at('repository'))
  const dry = await lifeboat(t, `--config ${t.at('lifeboat.yaml')} gc --dry-run`)
  assert.deepEqual(await everythingIn(t.at('repository')), before, 'the repository was changed')
  const real = await lifeboat(t, 'gc --grace 0s')
  assert.ok((real.bytesRewritten ?? 0) > 0 && (real.bytesFreed ?? 0) > 0)
  assertClose(dry.requests, real.requests, 2, ['get', 'head', 'put', 'list', 'delete'])
  assert.ok(Math.abs((dry.bytesKept ?? 0) + (real.bytesFreed ?? 0)) < 64 * KiB, `${dry.bytesKept} ${real.bytesFreed}`)
  const { put, list } = dry.requests
  const least = ((put.requests + list.requests) * 0.005) / 1000
  assert.ok(dry.cost && dry.cost.requests >= least && dry.cost.requests < 100 * least, JSON.stringify(dry.cost))
})

test('a sampled verify is estimated by a sample of its own, within 1.5', async () => {
  await using t = await newRepository()
  await lifeboat(t, `backup vm --image vda=${await image(t)}`)
  const { dry, real } = await both(t, 'verify --all --sample 30')
  assertClose(dry.requests, real.requests, 1.5, ['get', 'put', 'list'])
})

test('qcow2 images with bitmaps of their own are not touched by a dry run', {
  skip: lacking('qemu-img', 'qemu-io', 'qemu-nbd'),
}, async () => {
  await using t = await newRepository()
  const file = t.at('disk.qcow2')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', file, '64M'])
  const write = (command: string) => execFileSync('qemu-io', ['-f', 'qcow2', '-c', command, file], { stdio: 'ignore' })
  const info = () => execFileSync('qemu-img', ['info', '--output=json', file], { encoding: 'utf8' })
  write('write -P 7 1M 8M')
  const words = `backup vm --image vda=${file}`
  for (const kind of ['full', 'incremental']) {
    const before = info()
    const dry = await lifeboat(t, `${words} --dry-run`)
    assert.equal(info(), before, 'bitmaps were changed')
    const real = await lifeboat(t, words)
    assert.equal(dry.disks[0]?.bytesChanged, real.disks[0]?.bytesChanged, kind)
    assertClose(dry.requests, real.requests, 1.1, ['get', 'head', 'put', 'list', 'delete'])
    write('write -P 8 2M 1M')
  }
})

test('a running guest is asked for the counts of its bitmaps only: what they do not tell is unknown; within 2', {
  skip: qemuMissing(),
}, async () => {
  await using qemu = await startQemu({ disks: [{ id: 'vda', format: 'qcow2', size: 64 * MiB }] })
  await using t = await newRepository()
  const words = `backup vm --qmp ${qemu.qmp} --fleecing-dir ${t.at('f')}`
  for (let n = 0; n < 20; n++) await qemu.write('vda', n + 101, n * 3 * MiB, 64 * KiB)
  const first = await both(t, words)
  assert.equal(first.dry.disks[0]?.bytesChanged, null)
  assert.equal(first.dry.isUpperBound, true)
  assert.ok(first.dry.requests.put.bytes >= first.real.requests.put.bytes)

  for (let n = 0; n < 20; n++) await qemu.write('vda', n + 1, n * 3 * MiB, 64 * KiB)
  const bitmaps = await qemu.bitmaps()
  const { dry, real } = await both(t, words)
  assert.deepEqual(Object.keys(await qemu.bitmaps()), Object.keys(bitmaps))
  assert.equal(dry.isUpperBound, false)
  assert.equal(dry.disks[0]?.bytesChanged, 20 * 64 * KiB)
  assert.equal(real.disks[0]?.bytesChanged, 20 * 64 * KiB)
  assertClose(dry.requests, real.requests, 2, ['head', 'put', 'list', 'delete'])
  assert.ok(dry.requests.get.requests <= 2 * real.requests.get.requests + 2)
  assert.deepEqual(await qemu.residue(), [])
})

test('prices: none for a directory, a list by name, a list of one’s own; a mistake is told', async () => {
  await using t = await newRepository()
  const file = await image(t)
  const words = `backup vm --image vda=${file} --dry-run`
  assert.equal((await lifeboat(t, words)).cost?.requests, 0)
  const config = t.at('config.yaml')
  await writeFile(config, 'prices: aws-s3-standard\n')
  const { cost, requests } = await lifeboat(t, `--config ${config} ${words}`)
  const billed =
    (requests.put.requests + requests.list.requests) * 0.005 + (requests.get.requests + requests.head.requests) * 0.0004
  assert.equal(cost?.currency, 'USD')
  assert.ok(Math.abs((cost?.requests ?? 0) - billed / 1000) < 1e-12)
  await writeFile(config, 'prices: { currency: EUR, put-per-1000: 1 }\n')
  const own = await lifeboat(t, `--config ${config} ${words}`)
  assert.deepEqual(
    [own.cost?.currency, own.cost?.prices, own.cost?.requests],
    ['EUR', 'own', own.requests.put.requests / 1000],
  )
  await writeFile(config, 'prices: { put-per-1000: cheap }\n')
  const { code, error } = await t.json(`--config ${config} ${words}`)
  assert.equal(code, 2)
  assert.match(error.message ?? '', /put-per-1000/)
  const people = await t.run(words)
  assert.match(people.stdout, /estimated, nothing was written: .* PUT/)
  assert.match(people.stderr, /^requests: .*GET/m)
})
