/**
 * A backup whose host dies before or after its k-th change of the store, for every k: earlier points are whole, the new
 * one is either committed and whole or invisible, and the next backup works. A second kind of end: only the k-th change
 * fails, and the writer gives up by its rules.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crashAtEveryChange, endings, tearEverything } from '../doubles/crashed-backup.ts'

const seeds = (process.env.SEED ?? 'tide,reef').split(',')

for (const seed of seeds)
  for (const ending of endings)
    test(`a host that ${ending} any change of the store harms nothing (seed ${seed})`, async t => {
      const total = await crashAtEveryChange({ seed, chunkSize: 4096, newChunks: 0 }, ending)
      assert.ok(total >= 6, 'lease, pack, meta pack, index, manifest, end of the lease')
      t.diagnostic(`${total} changes of the store`)
    })

test('what a host that died had stored is torn, each object at each length: the next backup of the same relies on none of it', async t => {
  const { objects, tried } = await tearEverything({ seed: 'torn', chunkSize: 4096, newChunks: 250 })
  assert.ok(objects >= 4 && tried >= 4 * objects - 2, 'lease, pack, meta pack, index')
  t.diagnostic(`${objects} objects torn in ${tried} ways: accepted as good 0`)
})
