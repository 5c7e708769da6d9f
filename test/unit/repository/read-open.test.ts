import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { keySlotObject } from '../../../src/crypto/key-slot.ts'
import type { Credential } from '../../../src/crypto/keys.ts'
import { twinPipeline } from '../../../src/native/twin.ts'
import { ChunkFetcher } from '../../../src/repository/chunk-fetcher.ts'
import { initRepository } from '../../../src/repository/init.ts'
import { keyring, metadataOnly } from '../../../src/repository/keyring.ts'
import { openRepository } from '../../../src/repository/open.ts'
import { RecordReader } from '../../../src/repository/record-reader.ts'
import { openRecoveryPoint } from '../../../src/repository/recovery-point.ts'
import { memoryStore } from '../../../src/storage/memory.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import type { StoreRequest } from '../../doubles/intercepted-store.ts'
import { everyOrder } from '../../doubles/interleaved.ts'
import { monthLock } from '../../doubles/locked-repository.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { bytesOf, flipBit, keysOf, noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

const random = seededRandom('open')
const file = (byte: number): Credential => ({ kind: 'file', secret: new Uint8Array(32).fill(byte) })
const passphrase = (text: string): Credential => ({ kind: 'passphrase', passphrase: text })
const none: Credential = { kind: 'none' }
const scryptCost = { N: 1024, r: 8, p: 1 }

const init = (store: ObjectStore, credential: Credential) =>
  initRepository({ store, credential, random, clock: systemClock, scryptCost })
const open = (store: ObjectStore, credential?: Credential) =>
  openRepository({ store, credential, random, clock: systemClock, host: 'h', pipeline: twinPipeline })
const fails = (code: string) => (error: unknown) =>
  isLifeboatError(error) && error.code === code && !!error.details.hint

test('a repository opens with the credential that made it and with no other', async () => {
  for (const [mine, others] of [
    [file(1), [file(2), passphrase('x')]],
    [passphrase('p\u00e4ss'), [passphrase('pass'), file(1)]],
  ] as const) {
    const store = memoryStore()
    const made = await init(store, mine)
    assert.equal(made.encryption, 'aes-256-gcm')
    const repository = await open(store, mine)
    assert.equal(repository.id, made.repository)
    assert.equal(repository.chunkSize, 65_536)
    for (const other of others) await assert.rejects(open(store, other), fails('key-wrong'))
    await assert.rejects(open(store, none), fails('key-missing'))
    await assert.rejects(open(store), fails('key-missing'))
  }
  // The same passphrase as another keyboard composes it.
  const store = memoryStore()
  await init(store, passphrase('p\u00e4ss'))
  await open(store, passphrase('pa\u0308ss'))
})

test('an unencrypted repository opens without a key, and a key given for it is refused', async () => {
  const store = memoryStore()
  assert.equal((await init(store, none)).encryption, 'none')
  assert.deepEqual(keysOf(store, 'keys/').length, 1)
  await open(store)
  await assert.rejects(open(store, file(1)), fails('key-wrong'))
})

test('an encrypted repository cannot be turned into an unencrypted one behind the back of a host that knows it', async () => {
  const [store, replaced] = [memoryStore(), memoryStore()]
  await init(store, file(1))
  const { identity } = await open(store, file(1))
  await init(replaced, none)
  const request = { store: replaced, random, clock: systemClock, host: 'h', pipeline: twinPipeline, pinned: identity }
  await assert.rejects(openRepository(request), fails('corrupt-object'))
  await openRepository({ ...request, store, credential: file(1) })
})

test('a place without config is no repository; a newer one and a changed one are told apart', async () => {
  await assert.rejects(open(memoryStore(), file(1)), fails('not-a-repository'))
  const store = memoryStore()
  await init(store, file(1))
  const config = new TextDecoder().decode(bytesOf(store, 'config'))
  assert.equal(JSON.parse(config).format, 1)
  store.tamper('config', new TextEncoder().encode(config.replace('"format":1', '"format":2')))
  await assert.rejects(open(store, file(1)), fails('newer-format'))
  store.tamper('config', new TextEncoder().encode(config.replace('65536', '32768')))
  await assert.rejects(open(store, file(1)), fails('corrupt-object'))
  store.tamper('config', new TextEncoder().encode(config.slice(0, -20)))
  await assert.rejects(open(store, file(1)), fails('corrupt-object'))
})

test('init refuses a place that is not empty, and leaves it as it was', async () => {
  const store = memoryStore()
  await init(store, file(1))
  const before = keysOf(store, '')
  await assert.rejects(init(store, file(2)), fails('repository-exists'))
  assert.deepEqual(keysOf(store, ''), before)
  store.tamper('audit/20260102T030405Z-0000000000000000', new Uint8Array(3))
  await assert.rejects(init(store, file(2)), { message: /There is a repository/ }, 'whatever is listed before config')
  const other = memoryStore()
  other.tamper('holiday.jpg', new Uint8Array(3))
  await assert.rejects(init(other, file(2)), fails('repository-exists'))
  assert.deepEqual(keysOf(other, ''), ['holiday.jpg'])
  await assert.rejects(
    initRepository({ store: memoryStore(), credential: none, chunkSize: 5000, random, clock: systemClock }),
    fails('usage'),
  )
})

test('an init that stops at any of its writes leaves nothing that counts and can be repeated', async () => {
  let puts = 0
  for (let failing = 1; ; failing++) {
    const store = memoryStore()
    puts = 0
    const stopping: ObjectStore = {
      ...store,
      put: (...call) => (++puts >= failing ? Promise.reject(new Error('power cut')) : store.put(...call)),
    }
    const finished = await init(stopping, file(1)).then(
      () => true,
      () => false,
    )
    if (finished) break
    await assert.rejects(open(store, file(1)), fails('not-a-repository'))
    await init(store, file(1))
    await open(store, file(1))
  }
  assert.ok(puts >= 3, `${puts} writes`)
})

test('two inits at once make one repository, also in a store without conditional puts', async () => {
  for (const isCareful of [true, false]) {
    const memory = memoryStore()
    const store: ObjectStore = isCareful ? memory : { ...memory, put: (key, body) => memory.put(key, body) }
    const results = await Promise.allSettled([init(store, file(1)), init(store, file(2))])
    const opened = await Promise.allSettled([open(store, file(1)), open(store, file(2))])
    // Who was told that it made a repository has one, and the other was told that it has none.
    assert.deepEqual(
      results.map(({ status }) => status),
      opened.map(({ status }) => status),
    )
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1)
  }
})

for (const kind of ['versions', 'versions and locks', 'neither versions nor conditional puts'] as const)
  test(`two inits in every order of their requests, in a store with ${kind}: who was told of a repository has it`, async t => {
    const lock = kind === 'versions and locks' ? monthLock : undefined
    const seen = { none: 0, one: 0, both: 0 }
    const runs = await everyOrder(
      async () => {
        const clock = manualClock()
        const versioned = kind.startsWith('versions')
        const memory = memoryStore({ clock, versioned, objectLock: lock !== undefined })
        const careless: ObjectStore = {
          ...memory,
          put: (key, body, { ifAbsent: _, ...rest } = {}) => memory.put(key, body, rest),
        }
        const made = new Map<number, string>()
        const actors = [1, 2].map(n => ({
          store: careless,
          takesTurn: ({ verb, key }: StoreRequest) => key === 'config' || (verb === 'list' && key === ''),
          work: async (store: ObjectStore) => {
            const credential = file(n)
            try {
              made.set(
                n,
                (await initRepository({ store, credential, lock, random: seededRandom(`${n}`), clock })).repository,
              )
            } catch (error) {
              assert.ok(isLifeboatError(error, 'repository-exists'), String(error))
            }
          },
        }))
        return { state: { made, memory }, actors }
      },
      async ({ made, memory }) => {
        seen[(['none', 'one', 'both'] as const)[made.size]!]++
        const opened = await Promise.allSettled([1, 2].map(n => open(memory, file(n))))
        const ids = opened.map(result => (result.status === 'fulfilled' ? result.value.id : undefined))
        if (kind.startsWith('versions')) assert.deepEqual(ids, [made.get(1), made.get(2)])
        else assert.equal(ids.filter(id => id !== undefined).length, 1, 'there is one repository, and it opens')
        if (!lock) assert.equal(keysOf(memory, 'keys/').filter(key => !key.slice(5).includes('/')).length, made.size)
        if (!memory.versioned) return
        const now = (await memory.get('config')).toString()
        const [oldest] = (await Array.fromAsync(memory.versioned.versions('config'))).reverse()
        assert.equal(
          (await memory.versioned.getVersion('config', oldest!.versionId)).toString(),
          now,
          'the oldest lies on top',
        )
      },
    )
    t.diagnostic(`${runs} orders: ${JSON.stringify(seen)}`)
    assert.ok(runs >= 10 && seen.none === 0)
    if (kind.startsWith('versions')) assert.equal(seen.both, 0)
  })

test('a damaged key slot and damaged or missing domain keys are named', async () => {
  const { store, repository, open: again, writePoint } = await repositoryFixture()
  const summary = await writePoint({ disks: [{ name: 'vda', size: 8192, writes: [[0, noise('a', 8192)]] }] })
  const [domainKeys = '', slot = ''] = keysOf(store, 'keys/').sort((a, b) => b.length - a.length)
  assert.equal(slot, keySlotObject(JSON.parse(new TextDecoder().decode(bytesOf(store, slot))).slot))
  const read = async () => {
    await using point = await (await again()).openPoint(summary, { pin: 'none' })
    const disk = point.disk('vda')
    await disk.fetch(
      (await disk.locate(0, 1)).map(ref => ref!),
      () => {},
    )
  }
  await read()
  const names = (object: string) => (error: unknown) => isLifeboatError(error) && error.details.object === object
  const good = bytesOf(store, domainKeys)
  flipBit(store, domainKeys, 40)
  await assert.rejects(read(), names(domainKeys))
  store.tamper(domainKeys, good.slice(0, 100))
  await assert.rejects(read(), names(domainKeys))
  store.tamper(domainKeys, undefined)
  await assert.rejects(read(), error => isLifeboatError(error, 'missing-object') && names(domainKeys)(error))
  store.tamper(domainKeys, good)
  const slotBytes = bytesOf(store, slot)
  store.tamper(slot, slotBytes.slice(0, 50))
  await assert.rejects(read(), error => isLifeboatError(error, 'corrupt-object') && names(slot)(error))
  store.tamper(slot, undefined)
  await assert.rejects(read(), fails('missing-object'))
  assert.equal(repository.encryption, 'aes-256-gcm')
})

test('a slot that the store lists and does not give makes no key wrong: it could not be tried', async () => {
  for (const credential of [file(1), passphrase('correct')]) {
    const memory = memoryStore()
    await init(memory, credential)
    const [slot = ''] = keysOf(memory, 'keys/').filter(key => !key.slice(5).includes('/'))
    let denied = 0
    const denying = (times: number): ObjectStore => {
      let left = times
      return {
        ...memory,
        get: (key, range, options) => {
          if (key !== slot || left-- <= 0) return memory.get(key, range, options)
          denied++
          return memory.get(`${key}x`, range, options)
        },
      }
    }
    await open(denying(1), credential)
    await assert.rejects(open(denying(10), credential), fails('store-failed'))
    assert.ok(denied >= 3, `${denied} answers were false`)
    memory.tamper('keys/00000000000000aa', bytesOf(memory, slot))
    memory.tamper(slot, undefined)
    // Removed by its owner, while another stands: this key opens nothing any more.
    if (credential.kind === 'file') await assert.rejects(open(memory, credential), fails('key-wrong'))
    memory.tamper('keys/00000000000000aa', undefined)
    await assert.rejects(open(memory, credential), fails('missing-object'))
  }
})

test('who holds metadata keys only walks trees and reads no chunk', async () => {
  const { store, repository, writePoint } = await repositoryFixture()
  const summary = await writePoint({ disks: [{ name: 'vda', size: 8192, writes: [[0, noise('a', 8192)]] }] })
  const ring = keyring(store, metadataOnly(repository.reading.keyring.repository))
  const records = new RecordReader({ store, keyring: ring, pipeline: twinPipeline, random })
  const reading = { ...repository.reading, keyring: ring, records, fetcher: new ChunkFetcher(records) }
  await using point = await openRecoveryPoint(reading, summary, { pin: 'none' })
  const [ref] = await point.disk('vda').locate(0, 1)
  assert.ok(ref)
  await assert.rejects(
    point.disk('vda').fetch([ref], () => {}),
    fails('key-missing'),
  )
})

test('simultaneous users of one domain share one read of its keys', async () => {
  const { store, repository } = await repositoryFixture()
  const [domainKeys = ''] = keysOf(store, 'keys/').filter(key => key.endsWith('/0'))
  const { domain } = JSON.parse(new TextDecoder().decode(bytesOf(store, 'config')))
  let reads = 0
  const counted: ObjectStore = {
    ...store,
    get: (key, ...rest) => {
      if (key === domainKeys) reads++
      return store.get(key, ...rest)
    },
  }
  const ring = keyring(counted, repository.reading.keyring.repository)
  await Promise.all([ring.domainKeys(domain, 0), ring.domainKeys(domain, 0), ring.domainKeys(domain, 0)])
  await ring.domainKeys(domain, 0)
  assert.equal(reads, 1)
})
