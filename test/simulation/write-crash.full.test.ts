/** As write-crash.test.ts, with a backup of several packs, which are on their way together when its host dies. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KiB } from '../../src/core/limits.ts'
import { loadPipeline } from '../../src/native/native.ts'
import { crashAtEveryChange, endings } from '../doubles/crashed-backup.ts'

for (const ending of endings)
  test(`a host that ${ending} any change of the store during several uploads harms nothing`, async t => {
    const total = await crashAtEveryChange(
      { seed: 'several packs', chunkSize: 64 * KiB, newChunks: 600, pipeline: loadPipeline() },
      ending,
    )
    assert.ok(total >= 8, `lease, three packs, meta pack, index, manifest, end of the lease: ${total}`)
    t.diagnostic(`${total} changes of the store`)
  })
