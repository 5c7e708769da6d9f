/** The second reader on what the product wrote. It shares no code with src/, so each test proves both, and the format page. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { formatKeyFile } from '../../../src/crypto/key-file.ts'
import type { Credential } from '../../../src/crypto/keys.ts'
import { forgetPoints } from '../../../src/maintenance/forget.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { markDamaged } from '../../../src/repository/mark-damaged.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import {
  bytesOf,
  fixtureSecret,
  flipBit,
  keysOf,
  noise,
  type RepositoryFixture,
  repositoryFixture,
} from '../../doubles/repository-fixture.ts'
import { rewritePack } from '../../doubles/rewritten-pack.ts'

const RECOVER = path.join(import.meta.dirname, '../../../recover/recover.mjs')
const KiB = 1024

interface Run {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Lays the memory store out as a directory repository and runs the reader on it. */
async function recover(
  fixture: RepositoryFixture,
  words: readonly string[],
  { keyFile = true, passphrase }: { keyFile?: boolean; passphrase?: string } = {},
): Promise<Run & { image: Uint8Array | undefined; blocks: number; leftovers: string[] }> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-recover-'))
  try {
    for (const [key, { bytes }] of fixture.store.snapshot()) {
      const file = path.join(dir, 'repo', ...key.split('/'))
      await mkdir(path.dirname(file), { recursive: true })
      await writeFile(file, bytes)
    }
    await writeFile(path.join(dir, 'key'), formatKeyFile(fixtureSecret, ['a comment']))
    await mkdir(path.join(dir, 'out'))
    const output = path.join(dir, 'out', 'disk.raw')
    const run = await promisify(execFile)(
      process.execPath,
      [RECOVER, '--repo', path.join(dir, 'repo')]
        .concat(keyFile ? ['--key-file', path.join(dir, 'key')] : [])
        .concat(words.length > 0 ? [...words, '--output', output] : []),
      { env: { ...process.env, LIFEBOAT_PASSPHRASE: passphrase } },
    ).then(
      ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
      ({ code, stdout, stderr }) => ({ code, stdout, stderr }),
    )
    const found = await stat(output).catch(() => undefined)
    return {
      ...run,
      image: found && new Uint8Array(await readFile(output)),
      blocks: found?.blocks ?? 0,
      leftovers: (await readdir(path.join(dir, 'out'))).filter(name => name !== 'disk.raw'),
    }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** A full point with holes, an increment, a grown and a shrunk disk: the images that each point must give. */
async function history(fixture: RepositoryFixture, chunk: number) {
  const images: Uint8Array[] = []
  const first = new Uint8Array(90 * chunk)
  const writes: [number, Uint8Array][] = [
    [0, noise('a', 2 * chunk)],
    [7 * chunk, new Uint8Array(3 * chunk).fill(65)],
    [70 * chunk, noise('b', chunk)],
  ]
  for (const [at, bytes] of writes) first.set(bytes, at)
  images.push(first)
  let point = await fixture.writePoint({ disks: [{ name: 'vda', size: first.length, writes }] })
  const points = [point]

  const step = async (size: number, changes: readonly [number, Uint8Array][]) => {
    const image = new Uint8Array(size)
    image.set((images.at(-1) ?? first).subarray(0, size))
    for (const [at, bytes] of changes) image.set(bytes, at)
    point = await fixture.writePoint({ base: point.id, disks: [{ name: 'vda', size, writes: changes }] })
    images.push(image)
    points.push(point)
  }
  await step(first.length, [
    [chunk, noise('c', chunk)],
    [8 * chunk, new Uint8Array(chunk)],
  ])
  await step(150 * chunk + 512, [[149 * chunk, noise('d', chunk + 512)]])
  await step(5 * chunk + 1000, [[0, noise('e', chunk)]])
  return { points, images }
}

const variants: readonly {
  name: string
  chunkSize: number
  credential: Credential
  keyFile?: boolean
  passphrase?: string
}[] = [
  { name: 'a key file, 4 KiB chunks', chunkSize: 4 * KiB, credential: { kind: 'file', secret: fixtureSecret } },
  { name: 'a key file, 64 KiB chunks', chunkSize: 64 * KiB, credential: { kind: 'file', secret: fixtureSecret } },
  { name: 'no encryption', chunkSize: 4 * KiB, credential: { kind: 'none' }, keyFile: false },
  {
    name: 'a passphrase',
    chunkSize: 4 * KiB,
    credential: { kind: 'passphrase', passphrase: 'Pfütze é' },
    keyFile: false,
    passphrase: 'Pfütze é',
  },
]

for (const { name, chunkSize, credential, ...opening } of variants)
  test(`full, increment, holes, grown and shrunk disks restore bit by bit: ${name}`, async () => {
    const fixture = await repositoryFixture({ chunkSize, credential })
    const { points, images } = await history(fixture, chunkSize)
    for (const [at, point] of points.entries()) {
      const run = await recover(fixture, [`web@${point.id}/vda`], opening)
      assert.equal(run.code, 0, run.stderr)
      assert.ok(run.image && Buffer.from(run.image).equals(images[at] ?? Buffer.alloc(0)), `point ${at}`)
      if (at === 0) assert.ok(run.blocks * 512 < 60 * chunkSize, 'the restored image is sparse')
    }
    const latest = await recover(fixture, ['web@latest/vda'], opening)
    assert.ok(latest.image && Buffer.from(latest.image).equals(images.at(-1) ?? Buffer.alloc(0)))
    const listing = await recover(fixture, [], opening)
    assert.equal(listing.stdout.trim().split('\n').length, 4)
    assert.match(listing.stdout, /committed {2}vda \(/)
  })

test('chunks of 4 MiB restore bit by bit', async () => {
  const chunk = 4 * KiB * KiB
  const fixture = await repositoryFixture({ chunkSize: chunk })
  const image = new Uint8Array(2 * chunk + 100)
  image.set(noise('big', chunk), chunk)
  image.set([1, 2, 3], 2 * chunk + 90)
  const writes: [number, Uint8Array][] = [
    [chunk, image.slice(chunk, 2 * chunk)],
    [2 * chunk, image.slice(2 * chunk)],
  ]
  await fixture.writePoint({ disks: [{ name: 'vda', size: image.length, writes }] })
  const run = await recover(fixture, ['web@latest/vda'])
  assert.ok(run.image && Buffer.from(run.image).equals(image), run.stderr)
})

test('a compacted pack serves when the original is gone, for data and for nodes', async () => {
  const fixture = await repositoryFixture()
  const { points, images } = await history(fixture, 4096)
  for (const folder of ['packs/', 'meta/'])
    for (const key of keysOf(fixture.store, folder)) {
      await rewritePack(fixture, key, '00112233445566ff')
      await fixture.store.delete([key])
    }
  const run = await recover(fixture, [`web@${points[1]?.id}/vda`])
  assert.ok(run.image && Buffer.from(run.image).equals(images[1] ?? Buffer.alloc(0)), run.stderr)
})

test('a repository that was collected restores bit by bit', async () => {
  const fixture = await repositoryFixture()
  const first = noise('whole', 200 * 4096)
  const changed = noise('changed', 150 * 4096)
  const oldest = await fixture.writePoint({ disks: [{ name: 'vda', size: first.length, writes: [[0, first]] }] })
  const disks = [{ name: 'vda', size: first.length, writes: [[0, changed]] }] as const
  const newest = await fixture.writePoint({ base: oldest.id, disks })
  const context = maintenanceContext(fixture.repository, 'tester@host')
  await forgetPoints(context, [oldest], { why: 'test' })
  const { packs, bytesRewritten } = await collectGarbage(context, { graceMs: 0 })
  assert.ok(packs > 0 && bytesRewritten > 0, `${packs} packs, ${bytesRewritten} bytes rewritten`)
  assert.equal((await recover(fixture, [`web@${oldest.id}/vda`])).code, 2)
  const run = await recover(fixture, [`web@${newest.id}/vda`])
  const image = first.slice()
  image.set(changed)
  assert.ok(run.image && Buffer.from(run.image).equals(image), run.stderr)
})

test('a flipped or missing pack is exit code 4, named, and leaves nothing behind; an untouched point still restores', async () => {
  const fixture = await repositoryFixture()
  const { points, images } = await history(fixture, 4096)
  const [pack = ''] = keysOf(fixture.store, 'packs/').slice(-1)
  const harmed: number[] = []
  flipBit(fixture.store, pack, 10)
  for (const [at, point] of points.entries()) {
    const run = await recover(fixture, [`web@${point.id}/vda`])
    assert.deepEqual(run.leftovers, [])
    if (run.code === 0) assert.ok(run.image && Buffer.from(run.image).equals(images[at] ?? Buffer.alloc(0)))
    else {
      harmed.push(at)
      assert.equal(run.code, 4)
      assert.ok(run.stderr.includes(pack), run.stderr)
      assert.equal(run.image, undefined)
    }
  }
  assert.ok(harmed.length > 0 && harmed.length < points.length, `harmed ${harmed}`)
})

test('what a backup healed restores from the repair objects, for data and for nodes', async () => {
  const fixture = await repositoryFixture()
  const { store, repository, writePoint } = fixture
  const { points, images } = await history(fixture, 4 * KiB)
  const [first] = points
  assert.ok(first && images[0])
  const [firstImage] = images
  assert.ok(firstImage)
  for (const [folder, vm] of [
    ['packs/', 'twin'],
    ['meta/', 'again'],
  ] as const) {
    for (const key of keysOf(store, folder)) flipBit(store, key, 40)
    const { problems } = await verifyPoints(await fixture.open(), { points })
    const marked = { whole: [], isAll: true, who: 'a@b', now: new Date(0) }
    await markDamaged(repository, { result: { problems }, ...marked })
    await writePoint({ vm, disks: [{ name: 'vda', size: firstImage.length, writes: [[0, firstImage]] }] })
  }
  assert.ok(keysOf(store, 'packs/').some(key => key.includes('.')))
  assert.ok(keysOf(store, 'meta/').some(key => key.includes('.')))
  const run = await recover(fixture, [`web@${first.id}/vda`])
  assert.equal(run.code, 0, run.stderr)
  assert.ok(run.image && Buffer.from(run.image).equals(images[0]))
})

test('a flipped bit in any object that it reads is told, or the disk is right for all that', async () => {
  const fixture = await repositoryFixture()
  const { store, writePoint } = fixture
  const image = noise('flips', 20 * 4 * KiB)
  const point = await writePoint({ disks: [{ name: 'vda', size: image.length, writes: [[0, image]] }] })
  let refused = 0
  for (const prefix of ['config', 'keys/', 'points/', 'packs/', 'meta/'])
    for (const key of keysOf(store, prefix)) {
      const good = bytesOf(store, key)
      for (const fraction of [0.1, 0.45, 0.8]) {
        flipBit(store, key, Math.floor(good.length * fraction))
        const run = await recover(fixture, [`web@${point.id}/vda`])
        if (run.code === 0) assert.ok(run.image && Buffer.from(run.image).equals(image), `${key} at ${fraction}`)
        else {
          assert.ok([2, 4].includes(run.code), run.stderr)
          assert.equal(run.image, undefined)
          refused++
        }
        store.tamper(key, good)
      }
    }
  assert.ok(refused >= 12, `${refused} were told`)
})

test('a wrong key, no key, a wrong passphrase, a missing point: exit code 2 with what to do', async () => {
  const fixture = await repositoryFixture({ credential: { kind: 'passphrase', passphrase: 'right' } })
  await history(fixture, 4096)
  for (const [words, opening] of [
    [['web@latest/vda'], { keyFile: true }],
    [['web@latest/vda'], { keyFile: false }],
    [['web@latest/vda'], { keyFile: false, passphrase: 'wrong' }],
    [['nobody@latest/vda'], { keyFile: false, passphrase: 'right' }],
    [['web@latest/vdz'], { keyFile: false, passphrase: 'right' }],
  ] as const) {
    const run = await recover(fixture, words, opening)
    assert.equal(run.code, 2, run.stderr)
    assert.match(run.stderr, /^recover: .{20,}/)
  }
})

test('the second reader imports node: modules only', async () => {
  const source = await readFile(RECOVER, 'utf8')
  const imports = [...source.matchAll(/from '([^']+)'/g)].map(match => match[1])
  assert.ok(imports.length > 3)
  for (const name of imports) assert.match(name ?? '', /^node:/)
})
