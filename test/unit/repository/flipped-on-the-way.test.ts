/** A byte that was flipped between store and host is no damage of the repository: what does not authenticate is fetched again once. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

/** The first answer for each key of this folder has one wrong bit. */
function flipping(inner: ObjectStore, folder: string, flipped: Set<string>): ObjectStore {
  return {
    ...inner,
    async get(key, range, options) {
      const bytes = await inner.get(key, range, options)
      if (!key.startsWith(folder) || flipped.has(key)) return bytes
      flipped.add(key)
      bytes[bytes.length - 1]! ^= 1
      return bytes
    },
  }
}

for (const folder of ['config', 'points/', 'keys/', 'packs/', 'meta/', 'holds/'])
  test(`what lies at ${folder} and arrives with a wrong bit once is read all the same`, async () => {
    const fixture = await repositoryFixture()
    const image = noise('flips', 64 * 4096)
    const point = await fixture.writePoint({ disks: [{ name: 'vda', size: image.length, writes: [[0, image]] }] })
    const { control } = fixture.repository.reading
    const hold = { counter: 1, point: point.id, manifest: point.key, kind: 'hold', host: 'a', who: 'b', reason: 'c' }
    await control.put('hold', 'holds/0123456789abcdef', { ...hold, expiryMs: null, created: new Date().toISOString() })
    const flipped = new Set<string>()
    const repository = await fixture.open(flipping(fixture.store, folder, flipped))
    assert.ok(await repository.reading.control.get('hold', 'holds/0123456789abcdef'))
    await using opened = await repository.openPoint(point, { pin: 'none' })
    const disk = opened.disk('vda')
    const refs = (await disk.locate(0, 64)).flatMap(ref => ref ?? [])
    let whole = 0
    await disk.fetch(refs, () => whole++)
    assert.equal(whole, 64)
    assert.ok(flipped.size > 0, 'a bit was flipped')
  })
