/** Rot in packs is found by their own checksums, without any key. */
import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { markRot } from '../../../src/maintenance/mark-rot.ts'
import { scrubStored } from '../../../src/maintenance/scrub.ts'
import { listDamage } from '../../../src/repository/damage-marks.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import { done, smallRepository } from '../../doubles/bad-input.ts'
import { bytesOf, flipBit, keysOf, noise, repositoryFixture } from '../../doubles/repository-fixture.ts'
import { rewritePack } from '../../doubles/rewritten-pack.ts'

const size = 3 * MiB + 5000

async function prepared() {
  const fixture = await repositoryFixture({ chunkSize: 65_536 })
  const content = noise('disk', size)
  const disks = [{ name: 'vda', size, writes: [[0, content] as const] }]
  const point = await fixture.writePoint({ disks })
  const [pack = ''] = keysOf(fixture.store, 'packs/')
  const [meta = ''] = keysOf(fixture.store, 'meta/')
  await rewritePack(fixture, pack, '00000000000000aa', [0, 1])
  const scrub = () => scrubStored({ store: fixture.store, random: seededRandom('scrub') })
  return { ...fixture, point, disks, pack, meta, scrub }
}

test('a sound repository has no rot, and every pack is read whole, rewritten ones as well', async () => {
  const { store, scrub } = await prepared()
  const keys = [...keysOf(store, 'packs/'), ...keysOf(store, 'meta/')]
  const bytes = keys.reduce((sum, key) => sum + bytesOf(store, key).length, 0)
  assert.deepEqual(await scrub(), { checked: 3, bytes, problems: [], unknown: [] })
})

test('the MiB that rotted are named', async () => {
  const { store, pack, scrub } = await prepared()
  flipBit(store, pack, 10)
  flipBit(store, pack, 2 * MiB + 10)
  const { problems } = await scrub()
  assert.deepEqual(
    problems.map(({ object, kind, rotten }) => ({ object, kind, rotten })),
    [{ object: pack, kind: 'corrupt', rotten: [0, 2] }],
  )
})

test('each of 64 bits of each pack, each truncation, packs that changed places: none is accepted as good', async () => {
  const { store, pack, meta, scrub } = await prepared()
  const copy = keysOf(store, 'packs/').find(key => key.includes('.')) ?? ''
  const random = seededRandom('bits')
  let tried = 0
  const isFound = async (key: string, what: string) => {
    const { problems } = await scrub()
    assert.deepEqual(
      problems.map(({ object }) => object),
      [key],
      `${what} of ${key}`,
    )
    tried++
  }
  for (const key of [pack, meta, copy]) {
    const good = bytesOf(store, key)
    const from = (fraction: number) => Math.floor((good.length - 1) * fraction)
    const sampled = Array.from({ length: 48 }, () => from(Buffer.from(random(4)).readUInt32BE() / 2 ** 32))
    // The end is short, and every byte of it decides.
    const end = Array.from({ length: 16 }, (_, n) => good.length - 1 - n * 7)
    for (const at of [...sampled, ...end]) {
      flipBit(store, key, at)
      await isFound(key, `bit in byte ${at}`)
      store.tamper(key, good)
    }
    for (const length of [0, 1, Math.floor(good.length / 2), good.length - 1]) {
      store.tamper(key, good.slice(0, length))
      await isFound(key, `first ${length} bytes`)
      store.tamper(key, good)
    }
    store.tamper(key, bytesOf(store, key === pack ? meta : pack))
    await isFound(key, 'another pack under the name')
    store.tamper(key, good)
  }
  assert.equal(tried, 3 * (64 + 4 + 1))
})

test('what the store does not answer is unchecked; what a collector has removed meanwhile is nothing; strangers are named', async () => {
  const { store, pack, meta } = await prepared()
  store.tamper('packs/readme.txt', new Uint8Array(3))
  const failing = {
    ...store,
    get: (key: string, ...rest: readonly unknown[]) => {
      if (key === pack) return Promise.reject(new Error('no answer'))
      return key === meta ? store.get('config/gone') : Reflect.apply(store.get, store, [key, ...rest])
    },
  }
  const { problems, unknown, checked } = await scrubStored({ store: failing, random: seededRandom('x') })
  assert.deepEqual(
    problems.map(({ object, kind }) => [object, kind]),
    [[pack, 'unchecked']],
  )
  assert.deepEqual(unknown, ['packs/readme.txt'])
  assert.equal(checked, 2)
})

test('with a key the records of a rotten MiB are marked, and the next backup heals them', async () => {
  const { store, pack, repository, scrub, point, disks, open, writePoint } = await prepared()
  for (const key of keysOf(store, 'packs/')) if (key.includes('.')) store.tamper(key, undefined)
  flipBit(store, pack, MiB + 10)
  const context = maintenanceContext(repository, 'a@b')
  assert.equal(await markRot(context, (await scrub()).problems), 1)
  const [mark] = await listDamage(repository.reading.control)
  // 64 KiB and 20 bytes each: slots 15 to 31 touch the second MiB.
  assert.deepEqual(
    mark?.known?.slots,
    Array.from({ length: 17 }, (_, n) => n + 15),
  )
  await writePoint({ disks, base: point.id })
  assert.deepEqual((await verifyPoints(await open(), { points: [point] })).problems, [])
})

test('rot in a rewritten pack is marked as such, and the next backup heals it', async () => {
  const fixture = await prepared()
  const { store, pack, repository, scrub, point, disks, open, writePoint } = fixture
  const copy = await rewritePack(fixture, pack, '00000000000000bb')
  store.tamper(pack, undefined)
  flipBit(store, copy, MiB + 10)
  assert.equal(await markRot(maintenanceContext(repository, 'a@b'), (await scrub()).problems), 1)
  assert.deepEqual((await listDamage(repository.reading.control))[0]?.known?.runs, ['00000000000000bb'])
  await writePoint({ disks, base: point.id })
  assert.deepEqual((await verifyPoints(await open(), { points: [point] })).problems, [])
})

test('verify --stored: no key, exit code 4 with the JSON, and with a key a mark; a wrong place is said to be one', async () => {
  await using small = await smallRepository()
  const stored = (words = '') => small.cli.json(`--repo ${small.repo} verify --stored${words}`)
  done(await stored())
  const folder = path.join(small.repo, 'packs')
  const names = await readdir(folder, { recursive: true })
  const file = path.join(folder, names.find(name => /[0-9a-f]{32}$/.test(name)) ?? '')
  const bytes = await readFile(file)
  bytes[7]! ^= 1
  await writeFile(file, bytes)
  const { code, json } = await stored()
  const { problems, marked } = json as { problems: readonly object[]; marked: number }
  assert.equal(code, 4)
  assert.equal(marked, 0)
  const object = path.relative(small.repo, file)
  const message = `${object} has rotted: MiB 0 is not what was stored`
  assert.deepEqual(problems, [{ object, kind: 'corrupt', message, rotten: [0] }])
  const withKey = await small.cli.json(`${small.at} verify --stored`)
  assert.equal((withKey.json as { marked: number }).marked, 1)
  assert.equal((await stored(' web1@latest')).code, 2)
  assert.equal((await stored(' --sample 0')).code, 0)
  assert.equal((await small.cli.json(`--repo ${small.cli.at('state')} verify --stored`)).error.code, 'not-a-repository')
})
