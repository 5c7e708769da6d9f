/** Who may write and delete in the bucket, and holds no key, hides and overwrites objects: every point still restores, bit for bit. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { isLockedKey } from '../../../src/repository/lock-policy.ts'
import { parseFenceKey, pointKey } from '../../../src/repository/object-keys.ts'
import { kinds } from '../../doubles/every-kind.ts'
import { type LockedRepository, lockedRepository } from '../../doubles/locked-repository.ts'
import { backup, keysOf, pointNumber, readBack, timeNumber } from '../../doubles/memory-repository.ts'

const image = seededRandom('image')(300_000)

async function withPoints(): Promise<LockedRepository> {
  const locked = await lockedRepository()
  const repository = await locked.open()
  const disks = [{ name: 'vda', image }]
  await backup(repository, { number: 1, disks })
  await backup(repository, {
    number: 2,
    disks: [{ name: 'vda', image, base: pointNumber(1), changed: [{ offset: 0, length: 4096 }] }],
  })
  return locked
}

type Attack = (locked: LockedRepository, key: string) => void

const attacks: Readonly<Record<string, Attack>> = {
  'a delete marker over': ({ store }, key) => store.tamper(key, undefined),
  'noise over': ({ store }, key) => store.tamper(key, seededRandom(key)(500)),
  'a flipped bit over': ({ store }, key) => {
    const bytes = store.snapshot().get(key)!.bytes.slice()
    bytes[bytes.length >> 1]! ^= 1
    store.tamper(key, bytes)
  },
  'noise, a marker and noise over': ({ store }, key) => {
    store.tamper(key, seededRandom(key)(70_000))
    store.tamper(key, undefined)
    store.tamper(key, new Uint8Array(0))
  },
}

const prefixes = ['config', 'keys/', 'points/', 'packs/', 'meta/']

for (const [name, attack] of Object.entries(attacks))
  for (const prefix of [...prefixes, '']) {
    test(`${name} ${prefix || 'every locked object'} keeps no point from being restored`, async () => {
      const locked = await withPoints()
      const keys = keysOf(locked.store, prefix).filter(key => prefixes.some(kind => key.startsWith(kind)))
      assert.ok(keys.length > 0)
      for (const key of keys) attack(locked, key)
      const repository = await locked.open()
      assert.deepEqual(
        (await repository.points()).map(({ id }) => id),
        [pointNumber(1), pointNumber(2)],
      )
      for (const number of [1, 2])
        assert.ok(Buffer.compare(await readBack(repository, pointNumber(number), 'vda'), image) === 0)
    })
  }

test('planted marks and fences take no point away', async () => {
  const locked = await withPoints()
  const repository = await locked.open()
  const point = pointNumber(1)
  const { lease } = await repository.manifest((await repository.points())[0]!)
  locked.store.tamper(`forgotten/${point}`, seededRandom('mark')(200))
  locked.store.tamper(`fences/${lease}/0123456789abcdef`, seededRandom('fence')(200))
  assert.ok(parseFenceKey(`fences/${lease}/0123456789abcdef`))
  assert.equal((await repository.points()).length, 2)
  assert.ok(Buffer.compare(await readBack(repository, point, 'vda'), image) === 0)
})

test('what is locked cannot be removed before its time, and can after it', async () => {
  const { store, clock, lock } = await withPoints()
  const key = pointKey('vm', timeNumber(1), pointNumber(1))
  const removal = () => store.delete([key])
  await assert.rejects(removal, error => isLifeboatError(error, 'store-locked'))
  await clock.advance(lock.forMs + lock.renewEveryMs - 1000)
  await assert.rejects(removal, error => isLifeboatError(error, 'store-locked'))
  await clock.advance(1000)
  await removal()
  assert.equal(await store.head(key), undefined)
})

test('coordination objects are never locked, what points are restored from always is', async () => {
  const locked = await withPoints()
  const seen = { locked: 0, free: 0 }
  for (const key of keysOf(locked.store, '')) {
    const { retainUntil, mode } = await locked.store.versioned.lockOf(key)
    if (prefixes.some(kind => key.startsWith(kind))) {
      assert.equal(mode, 'compliance')
      assert.equal(retainUntil?.getTime(), locked.clock.now().getTime() + 37 * 24 * 3_600_000, key)
      seen.locked++
    } else {
      assert.equal(retainUntil, undefined, key)
      seen.free++
    }
  }
  assert.ok(seen.locked >= 7 && seen.free >= 1, JSON.stringify(seen))
})

test('of every kind of object it is settled whether it is locked', () => {
  const locked = ['config', 'keys/x', 'keys/x/0', 'points/x', 'packs/x', 'meta/x', 'audit/x', 'policies/x']
  const free = [
    'leases',
    'pins',
    'holds',
    'fences',
    'forgotten',
    'gc',
    'damaged',
    'index',
    'locks',
    'claims',
    'traces',
    'probe',
  ]
  assert.deepEqual(locked.filter(isLockedKey), locked)
  assert.deepEqual(free.map(kind => `${kind}/x`).filter(isLockedKey), [])
  const known = [...Object.values(kinds)].map(({ source }) => source)
  for (const kind of known)
    assert.ok(
      [...locked, ...free].some(name => source(name).test(kind)),
      `${kind} is settled`,
    )
})

const source = (name: string) => new RegExp(`^\\^${name.split('/')[0]}`)

test('who may see that an object is hidden and not read past the marker is told so, and what brings it back', async () => {
  for (const prefix of ['points/', 'packs/', 'meta/', 'keys/']) {
    const locked = await withPoints()
    const { store } = locked
    const hidden = keysOf(store, prefix)
    const opened = await locked.open()
    for (const key of hidden) store.tamper(key, undefined)
    let refused = 0
    const getVersion = async () => {
      refused++
      throw new LifeboatError('store-denied', 'no right to GetObjectVersion')
    }
    const read = async () => {
      const repository = await locked.open({ ...store, versioned: { ...store.versioned, getVersion } })
      await readBack(repository, pointNumber(2), 'vda')
    }
    await assert.rejects(read, error => {
      assert.ok(isLifeboatError(error, 'hidden-object'), `${prefix} ${error}`)
      assert.ok(hidden.includes(error.details.object ?? ''))
      return /lock repair/.test(error.details.hint ?? '')
    })
    assert.ok(refused > 0)
    assert.equal((await opened.points()).length, 2)
  }
})
