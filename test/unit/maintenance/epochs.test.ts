/** Epochs of data keys: what two rotations at once, a crash, an old base and planted objects do to them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { startEpoch, startEpochs } from '../../../src/maintenance/epochs.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { domainKeysKey, parsePackKey } from '../../../src/repository/object-keys.ts'
import { memoryStore } from '../../../src/storage/memory.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { intercepted, type StoreRequest } from '../../doubles/intercepted-store.ts'
import { everyOrder } from '../../doubles/interleaved.ts'
import {
  backup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
} from '../../doubles/memory-repository.ts'

const C = 4096
let hosts = 0
const open = (store: ObjectStore) => openMemoryRepository(store, { seed: `host ${hosts++}` })
const contextOf = async (store: ObjectStore) => {
  const repository = await open(store)
  return { ...maintenanceContext(repository, 'jane@box'), domain: repository.domain }
}
/** Stores that ignore conditional puts are the rule here: nobody uses them. */
const image = (seed: string): Uint8Array => seededRandom(seed)(100 * C)
const epochs = (store: Parameters<typeof keysOf>[0], prefix = 'packs/') =>
  keysOf(store, prefix).map(key => Number.parseInt(parsePackKey(key)!.pack.slice(0, 2), 16))

test('a new epoch seals what comes, old points read on, and bases of the old epoch still serve', async () => {
  const store = await newMemoryRepository()
  const [one, two] = [image('one'), image('one')]
  await backup(await open(store), { number: 1, disks: [{ name: 'vda', image: one }] })
  const { started } = await startEpochs(await contextOf(store))
  assert.deepEqual(
    started.map(({ epoch }) => epoch),
    [1],
  )
  two.set(seededRandom('changed')(10 * C), 20 * C)
  const changed = [{ offset: 20 * C, length: 10 * C }]
  const manifest = await backup(await open(store), {
    number: 2,
    disks: [{ name: 'vda', image: two, base: pointNumber(1), changed }],
  })
  // Only the increment is new: the base's chunks stay under their epoch.
  assert.equal(manifest.disks[0]!.bytesNew, 10 * C)
  assert.deepEqual(epochs(store).sort(), [0, 1])
  const reader = await open(store)
  assert.deepEqual(await readBack(reader, pointNumber(1), 'vda'), one)
  assert.deepEqual(await readBack(reader, pointNumber(2), 'vda'), two)
  // Without a base nothing of the old epoch is used for new content.
  const alone = await backup(await open(store), { vm: 'other', number: 3, disks: [{ name: 'vda', image: one }] })
  assert.equal(alone.disks[0]!.bytesNew, 100 * C)
  // But what is known in the new epoch is.
  const again = await backup(await open(store), { vm: 'third', number: 4, disks: [{ name: 'vda', image: one }] })
  assert.equal(again.disks[0]!.bytesNew, 0)
  assert.deepEqual(await readBack(await open(store), pointNumber(4), 'vda'), one)
})

test('a reader asks for no more than before, whatever epochs there are', async () => {
  const store = await newMemoryRepository()
  await backup(await open(store), { number: 1, disks: [{ name: 'vda', image: image('one') }] })
  const opening = async () => {
    const seen: string[] = []
    const watched = intercepted(store, { before: ({ verb, key }) => void seen.push(`${verb} ${key.split('/')[0]}`) })
    await openMemoryRepository(watched, { seed: `reader ${hosts++}` })
    return seen.sort()
  }
  const before = await opening()
  await startEpochs(await contextOf(store))
  assert.deepEqual(await opening(), before)
  assert.deepEqual(before, ['get config', 'get keys', 'get keys'])
})

/** Whoever has lost its first number goes on alone: a second contest is like the first. */
function firstAttempt(): (request: StoreRequest) => boolean {
  let lists = 0
  return ({ verb, key }) => {
    if (verb === 'list') return key.startsWith('claims/') && ++lists <= 2
    return /^claims\/.*\/1-|^keys\/[0-9a-f]{16}\/1$/.test(key)
  }
}

test('two rotations at once, in every order of their requests, never write one name', async () => {
  const entries = (await newMemoryRepository()).snapshot()
  let same = 0
  let failed = 0
  const runs = await everyOrder(
    async () => {
      const store = memoryStore({ entries })
      const written: { object: string; dataKey: Uint8Array }[] = []
      const rotation = () => ({
        store,
        takesTurn: firstAttempt(),
        work: async (gated: ObjectStore) => {
          const context = await contextOf(gated)
          try {
            const epoch = await startEpoch(context, context.domain)
            const { dataKey } = await context.keyring.domainKeys(context.domain, epoch)
            written.push({ object: domainKeysKey(context.domain, epoch), dataKey: dataKey! })
          } catch (error) {
            if (!(error instanceof LifeboatError) || error.code !== 'store-conflict') throw error
            failed++
          }
        },
      })
      return { state: { store, written }, actors: [rotation(), rotation()] }
    },
    async ({ store, written }) => {
      if (new Set(written.map(({ object }) => object)).size < written.length) same++
      // What a writer sealed under the keys that it was told of can be opened by all.
      for (const { object, dataKey } of written) {
        const repository = await open(store)
        const keys = await repository.reading.keyring.domainKeys(repository.domain, Number(object.split('/')[2]))
        assert.deepEqual(keys.dataKey, dataKey, `${object} was overwritten`)
      }
    },
  )
  assert.equal(same, 0, 'one name was written twice')
  assert.ok(runs > 100, `${runs} orders, ${failed} gave up`)
})

test('a rotation that dies leaves its number unused, and the next one takes another', async () => {
  const start = (await newMemoryRepository()).snapshot()
  let deaths = 0
  for (let k = 1; ; k++) {
    const store = memoryStore({ entries: start })
    let changes = 0
    const dying = intercepted(store, {
      after({ verb }) {
        if ((verb === 'put' || verb === 'delete') && ++changes >= k)
          throw new LifeboatError('store-unreachable', 'the host died')
      },
    })
    const context = await contextOf(dying)
    const end = await startEpochs(context).catch(() => 'died')
    const one = image('one')
    await backup(await open(store), { number: 1, disks: [{ name: 'vda', image: one }] })
    const { started } = await startEpochs(await contextOf(store))
    assert.ok(started[0]!.epoch >= 1)
    await backup(await open(store), { number: 2, disks: [{ name: 'vda', image: one, base: pointNumber(1) }] })
    for (const n of [1, 2]) assert.deepEqual(await readBack(await open(store), pointNumber(n), 'vda'), one)
    if (end !== 'died') break
    deaths++
  }
  assert.equal(deaths, 4, 'claim, audit, keys, end of the claim')
})

test('a planted epoch stops no backup and is not taken', async () => {
  const store = await newMemoryRepository()
  const { domain } = await open(store)
  store.tamper(domainKeysKey(domain, 7), new Uint8Array(204))
  store.tamper('keys/00112233445566aa/0', new Uint8Array(204))
  const one = image('one')
  await backup(await open(store), { number: 1, disks: [{ name: 'vda', image: one }] })
  assert.deepEqual(new Set(epochs(store)), new Set([0]))
  const { started, skipped } = await startEpochs(await contextOf(store))
  assert.deepEqual(started, [{ domain, epoch: 8 }])
  assert.deepEqual(
    skipped.map(({ domain: planted }) => String(planted)),
    ['00112233445566aa'],
  )
  store.tamper(domainKeysKey(domain, 255), new Uint8Array(204))
  await assert.rejects(startEpochs(await contextOf(store)), { code: 'usage' })
})
