/** Keys are added, exchanged and removed, by several hosts and through crashes, and somebody can open the repository at all times. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { hex, type SlotId } from '../../../src/core/ids.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { parseKeySlot } from '../../../src/crypto/key-slot.ts'
import type { Credential } from '../../../src/crypto/keys.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { addKey, type KeyContext, listKeys, removeKey, rotateKey } from '../../../src/maintenance/keys.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { twinPipeline } from '../../../src/native/twin.ts'
import { unwrapRepositoryKey } from '../../../src/repository/keyring.ts'
import { keysPrefix, removalClaimKey, slotKey } from '../../../src/repository/object-keys.ts'
import { openRepository } from '../../../src/repository/open.ts'
import { type MemoryStore, memoryStore, type StoredObject } from '../../../src/storage/memory.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { goldenKeeper } from '../../doubles/golden-keeper.ts'
import { intercepted, type StoreRequest } from '../../doubles/intercepted-store.ts'
import { everyOrder } from '../../doubles/interleaved.ts'
import { lockedRepository } from '../../doubles/locked-repository.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { keysOf, newMemoryRepository } from '../../doubles/memory-repository.ts'

const scryptCost = { N: 16, r: 8, p: 1 }
const file = (byte: number): Credential => ({ kind: 'file', secret: new Uint8Array(32).fill(byte) })
const first = file(7)
const passphrase: Credential = { kind: 'passphrase', passphrase: 'correct horse' }
let opened = 0

const open = (store: ObjectStore, credential: Credential) =>
  openRepository({
    store,
    credential,
    clock: manualClock(),
    random: seededRandom(`host ${opened++}`),
    host: 'h',
    pipeline: twinPipeline,
  })

async function contextOf(store: ObjectStore, credential: Credential = first): Promise<KeyContext> {
  const repository = await open(store, credential)
  return { ...maintenanceContext(repository, 'jane@box'), slot: repository.slot!, credential }
}

const opens = (store: ObjectStore, credential: Credential): Promise<boolean> =>
  open(store, credential).then(
    () => true,
    error => {
      if (isLifeboatError(error, 'key-wrong')) return false
      throw error
    },
  )

const from = (start: ReadonlyMap<string, StoredObject>): MemoryStore => memoryStore({ entries: start })

test('several keys of every kind open one repository, and each is listed as what it is', async () => {
  const store = await newMemoryRepository()
  const context = await contextOf(store)
  const added = [
    await addKey(context, file(8)),
    await addKey(context, passphrase, { scryptCost }),
    await addKey(context, goldenKeeper),
  ]
  for (const credential of [first, file(8), passphrase, goldenKeeper]) assert.ok(await opens(store, credential))
  for (const wrong of [file(9), { kind: 'passphrase', passphrase: 'Correct horse' } as const])
    assert.equal(await opens(store, wrong), false)
  const keys = await listKeys(context)
  assert.deepEqual(
    [context.slot, ...added].map(id => keys.find(key => key.id === id)!).map(({ kind, usable }) => [kind, usable]),
    [
      ['file', 'this'],
      ['file', 'likely'],
      ['passphrase', 'likely'],
      ['command', 'likely'],
    ],
  )
  assert.equal(keys.find(({ kind }) => kind === 'command')?.label, 'golden kms')
  // The same key file again is the same slot, tried and not written.
  const before = store.snapshot().get(slotKey(added[0]!))
  assert.equal(await addKey(context, file(8)), added[0])
  assert.equal(store.snapshot().get(slotKey(added[0]!)), before)
})

test('an old client with the old key is told so after the exchange; data is not touched', async () => {
  const store = await newMemoryRepository()
  const before = new Map([...store.snapshot()].filter(([key]) => !key.startsWith('keys/')))
  await rotateKey(await contextOf(store), file(8))
  await assert.rejects(open(store, first), (error: LifeboatError) => {
    assert.equal(error.code, 'key-wrong')
    assert.match(String(error.details.hint), /take the new one/)
    return true
  })
  assert.ok(await opens(store, file(8)))
  for (const [key, object] of before) assert.equal(store.snapshot().get(key), object, key)
  assert.deepEqual(keysOf(store, 'claims/'), [])
  await assert.rejects(rotateKey(await contextOf(store, file(8)), file(8)), { code: 'usage' })
  assert.ok(await opens(store, file(8)))
})

test('one of several key files gone, the others open it and remove its slot', async () => {
  const store = await newMemoryRepository()
  const context = await contextOf(store)
  await addKey(context, file(8))
  await removeKey(await contextOf(store, file(8)), context.slot)
  assert.equal(await opens(store, first), false)
  await assert.rejects(removeKey(await contextOf(store, file(8)), context.slot), { code: 'usage' })
})

test('the last key stays, whatever is planted beside it', async () => {
  const store = await newMemoryRepository()
  const context = await contextOf(store)
  const fails = () => assert.rejects(removeKey(context, context.slot), { code: 'last-key' })
  await fails()
  // A slot of another repository, a copy under another name, and rubbish: nothing that opens this one.
  const other = await newMemoryRepository({ seed: 'other' })
  const foreign = await contextOf(other, first)
  const foreignSlot = await addKey(foreign, passphrase, { scryptCost })
  store.tamper(slotKey(foreignSlot), other.snapshot().get(slotKey(foreignSlot))!.bytes)
  const own: object = JSON.parse(new TextDecoder().decode(store.snapshot().get(slotKey(context.slot))!.bytes))
  const copy = JSON.stringify({ ...own, slot: 'aa'.repeat(8) })
  store.tamper(`keys/${'aa'.repeat(8)}`, new TextEncoder().encode(copy))
  store.tamper(`keys/${'bb'.repeat(8)}`, new TextEncoder().encode('{}'))
  await fails()
  assert.deepEqual((await listKeys(context)).map(({ kind, usable }) => `${kind} ${usable}`).sort(), [
    'damaged unknown',
    'file this',
    'file unknown',
    'passphrase unknown',
  ])
  assert.ok(await opens(store, first))
  // Each of them can be removed.
  for (const id of [foreignSlot, 'aa'.repeat(8), 'bb'.repeat(8)] as SlotId[]) await removeKey(context, id)
  assert.deepEqual(
    (await listKeys(context)).map(({ usable }) => usable),
    ['this'],
  )
})

test('two hosts that remove the key of the other never remove both, in any order of their requests', async () => {
  const start = await newMemoryRepository()
  const a = await contextOf(start)
  const b = { ...a, slot: await addKey(a, file(8)) }
  const entries = start.snapshot()
  let refused = 0
  let removed = 0
  const runs = await everyOrder(
    async () => {
      const store = from(entries)
      const remover = (credential: Credential, id: SlotId) => ({
        store,
        takesTurn: ({ verb, key }: StoreRequest) =>
          verb === 'put' ? key.startsWith('claims/') : verb === 'delete' ? !key.startsWith('leases/') : verb === 'list',
        work: async (gated: ObjectStore) => {
          const context = await contextOf(gated, credential)
          await removeKey(context, id).then(
            () => removed++,
            error => {
              assert.ok(['last-key', 'usage'].includes(error.code), error.message)
              refused++
            },
          )
        },
      })
      return { state: store, actors: [remover(first, b.slot), remover(file(8), a.slot)] }
    },
    async store => {
      const left = [await opens(store, first), await opens(store, file(8))]
      assert.ok(left.includes(true), 'nobody can open the repository any more')
    },
  )
  assert.ok(runs > 100 && refused > 0 && removed > 0, `${runs} orders, ${removed} removed, ${refused} refused`)
})

test('the claim of a host that died while it removed a key takes nothing away: the key opens, can go, and counts again in the end', async () => {
  const clock = manualClock()
  const store = memoryStore({ clock, entries: (await newMemoryRepository()).snapshot() })
  const context = await contextOf(store)
  const second = await addKey(context, file(8))
  const claim = removalClaimKey(second, 'dead'.repeat(4))
  await context.control.put('claim', claim, { who: 'dead@host', when: clock.now().toISOString() })
  assert.ok(await opens(store, file(8)))
  // It does not count, so that the first stays; a third one lets it go.
  await assert.rejects(removeKey(context, context.slot), { code: 'last-key' })
  const third = await addKey(context, file(9))
  await removeKey(context, context.slot)
  assert.deepEqual(
    [await opens(store, first), await opens(store, file(8)), await opens(store, file(9))],
    [false, true, true],
  )
  // A claim of this week may be of a host that goes on; what is older goes where nobody else works, and the key counts again.
  const later = await contextOf(store, file(8))
  await assert.rejects(removeKey(later, third), { code: 'last-key' })
  await collectGarbage(later, { graceMs: 0, exclusive: true })
  assert.deepEqual(keysOf(store, 'claims/'), [claim])
  await clock.advance(limits.leaseLifeMs + 1000)
  await collectGarbage(later, { graceMs: 0 })
  assert.deepEqual(keysOf(store, 'claims/'), [claim], 'not without that word')
  const { leftovers } = await collectGarbage(later, { graceMs: 0, exclusive: true })
  assert.deepEqual(leftovers?.claims, [claim])
  await removeKey(later, third)
  assert.deepEqual([await opens(store, file(8)), await opens(store, file(9))], [true, false])
})

test('a host that dies during an exchange, before or after any change, leaves a key that opens', async () => {
  const start = (await newMemoryRepository()).snapshot()
  let deaths = 0
  for (let k = 1; ; k++) {
    let total = 0
    for (const when of ['before', 'after'] as const) {
      const store = from(start)
      const dead = new LifeboatError('store-unreachable', 'the host died')
      let isDead = false
      const context = await contextOf(store)
      total = 0
      const counted = intercepted(store, {
        before({ verb }) {
          if (isDead) throw dead
          if (verb !== 'put' && verb !== 'delete') return
          if (++total === k && when === 'before') {
            isDead = true
            throw dead
          }
        },
        after({ verb }) {
          if ((verb === 'put' || verb === 'delete') && total === k && when === 'after') {
            isDead = true
            throw dead
          }
        },
      })
      const dying = await contextOf(counted)
      const end = await rotateKey(dying, file(8)).catch(error => error)
      if (isDead) deaths++
      const [old, next] = [await opens(store, first), await opens(store, file(8))]
      assert.ok(old || next, `nobody can open it after death ${when} change ${k}`)
      // Whoever goes on gets there.
      if (old) await rotateKey({ ...context, ...(await contextOf(store)) }, file(8))
      assert.deepEqual([await opens(store, first), await opens(store, file(8))], [false, true], String(end))
    }
    if (k > total) break
  }
  assert.ok(deaths >= 8, `${deaths} deaths`)
})

test('in a store that locks the old key stays, and the message says so', async () => {
  const locked = await lockedRepository()
  const repository = await locked.open()
  const context = { ...maintenanceContext(repository, 'jane@box'), slot: repository.slot!, credential: first }
  await assert.rejects(rotateKey(context, file(8)), (error: LifeboatError) => {
    assert.equal(error.code, 'store-locked')
    assert.match(error.message, /still opens the repository/)
    return true
  })
  for (const credential of [first, file(8)]) assert.ok(await opens(locked.store, credential))
})

test('every action is in the audit before it takes effect', async () => {
  const store = await newMemoryRepository()
  const order: string[] = []
  const watched = intercepted(store, {
    before({ verb, key }) {
      if (verb === 'put' && (key.startsWith('audit/') || key.startsWith('keys/')))
        order.push(`put ${key.split('/')[0]}`)
      if (verb === 'delete' && key.startsWith('keys/')) order.push('delete keys')
    },
  })
  const context = await contextOf(watched)
  const id = await addKey(context, file(8))
  await removeKey(context, id)
  assert.deepEqual(order, ['put audit', 'put keys', 'put audit', 'delete keys'])
})

test('no secret and no key stands in the store in the clear', async () => {
  const store = await newMemoryRepository()
  const context = await contextOf(store)
  await addKey(context, passphrase, { scryptCost })
  await addKey(context, goldenKeeper)
  const { repository } = context.keyring.repository
  const { repositoryKey } = await unwrapRepositoryKey(store, repository, first)
  const { metadata, data, config, slots } = context.keyring.repository
  const secrets = [new Uint8Array(32).fill(7), repositoryKey, metadata, data!, config, slots]
  const domain = context.keyring.domainKeysNow((await open(store, first)).domain, 0)!
  const texts = ['correct horse', ...secrets.flatMap(secret => [Buffer.from(secret).toString('latin1'), hex(secret)])]
  texts.push(...[domain.dataKey!, domain.metadataKey].map(key => Buffer.from(key).toString('latin1')))
  for (const [key, { bytes }] of store.snapshot())
    for (const text of texts) assert.ok(!Buffer.from(bytes).toString('latin1').includes(text), `${key} holds a secret`)
})

test('planted slots are bounded: scrypt that never ends, thousands of slots, keepers that are asked for ever', async () => {
  const store = await newMemoryRepository()
  const context = await contextOf(store)
  const id = await addKey(context, passphrase, { scryptCost })
  const slot: { kdf: object } = JSON.parse(new TextDecoder().decode(store.snapshot().get(slotKey(id))!.bytes))
  const plant = (n: number, change: object) => {
    const name = n.toString(16).padStart(16, '0')
    store.tamper(`${keysPrefix}${name}`, new TextEncoder().encode(JSON.stringify({ ...slot, slot: name, ...change })))
  }
  // Each would take half a minute and 1 GiB: the right one is tried first, and a wrong passphrase stops at the bound.
  for (let n = 0; n < 20; n++)
    plant(n, { kdf: { ...slot.kdf, N: 2 ** 20, r: 8, p: 4 }, created: '2000-01-01T00:00:00Z' })
  assert.ok(await opens(store, passphrase))
  for (let n = 0; n < 20; n++) plant(n, { kdf: { ...slot.kdf, N: 2 ** 21 } })
  assert.equal(await opens(store, { kind: 'passphrase', passphrase: 'wrong' }), false)
  let asked = 0
  const wrap = goldenKeeper.keeper.wrap
  const counting: Credential = {
    ...goldenKeeper,
    keeper: {
      wrap,
      unwrap: async bytes => {
        asked++
        return bytes.slice(0, 32)
      },
    },
  }
  for (let n = 0; n < 33; n++) plant(n, { kind: 'command', label: 'x', blob: '00'.repeat(32), kdf: undefined })
  await assert.rejects(open(store, counting), { code: 'absurd-object' })
  assert.equal(asked, 0)
  for (let n = 0; n < 300; n++) plant(n, {})
  await assert.rejects(open(store, passphrase), { code: 'absurd-object' })
  // A key file's slot is found by its name, past all of them.
  assert.ok(await opens(store, first))
})

test('what a slot of a keeper says beyond its blob is never looked at', () => {
  const slot = { format: 1, slot: '00'.repeat(8), kind: 'command', created: '2026-11-21T12:00:00.000Z', label: 'l' }
  const planted = {
    ...slot,
    blob: 'aa',
    nonce: '00'.repeat(12),
    wrapped: '00'.repeat(48),
    command: 'rm -rf /',
    module: '/x.so',
  }
  const parsed = parseKeySlot(new TextEncoder().encode(JSON.stringify(planted)), `keys/${'00'.repeat(8)}`)
  assert.deepEqual(Object.keys(parsed).sort(), ['blob', 'created', 'kind', 'label', 'nonce', 'slot', 'wrapped'])
})
