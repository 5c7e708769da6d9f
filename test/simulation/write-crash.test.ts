/**
 * A backup whose host dies before or after its k-th change of the store, for every k: earlier points are whole, the new
 * one is either committed and whole or invisible, and the next backup works. A second kind of end: only the k-th change
 * fails, and the writer gives up by its rules.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crashAtEveryChange, endings } from '../doubles/crashed-backup.ts'

const seeds = (process.env.SEED ?? 'tide,reef').split(',')

for (const seed of seeds)
  for (const ending of endings)
    test(`a host that ${ending} any change of the store harms nothing (seed ${seed})`, async t => {
      const total = await crashAtEveryChange({ seed, chunkSize: 4096, newChunks: 0 }, ending)
      assert.ok(total >= 6, 'lease, pack, meta pack, index, manifest, end of the lease')
      t.diagnostic(`${total} changes of the store`)
    })
