import assert from 'node:assert/strict'
import { test } from 'node:test'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { collectionTale, forgetPoint } from '../../doubles/collection.ts'
import { keysOf, pointNumber, readBack, storedBytes } from '../../doubles/memory-repository.ts'

test('a forgotten point goes, with what only it needs; a mostly dead pack is rewritten, and all other points are whole', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  await forgetPoint(context, 4, 'other')
  const before = storedBytes(tale.store, 'packs/') + storedBytes(tale.store, 'meta/')
  const result = await collectGarbage(context, { graceMs: 0 })
  const after = storedBytes(tale.store, 'packs/') + storedBytes(tale.store, 'meta/')
  assert.deepEqual(result.removed, [pointNumber(1), pointNumber(4)])
  const repository = await tale.open()
  for (const number of [2, 3])
    assert.ok(Buffer.compare(await readBack(repository, pointNumber(number), 'vda'), tale.images[number - 1]!) === 0)
})
