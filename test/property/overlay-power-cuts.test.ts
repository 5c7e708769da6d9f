import assert from 'node:assert/strict'
import { test } from 'node:test'
import { powerCuts } from './overlay-power-cuts.ts'

const FIRST = Number(process.env.SEED ?? 1)

test('what was flushed is there after a power cut, what was acknowledged after a kill; every block is whole', async t => {
  const result = await powerCuts(FIRST, Number(process.env.STORIES ?? 15), 6)
  const { durable, lost, invented, cuts, kills, flushes, writtenNow, settlesBegun, settled } = result
  t.diagnostic(
    `stories from ${FIRST}: ${cuts} power cuts, ${kills} kills, ${flushes} flushes, ${writtenNow} writes in one turn, ${settled} of ${settlesBegun} settles ended; ${durable} durable sectors, lost ${lost}, invented ${invented}`,
  )
  assert.ok(cuts > 0 && kills > 0 && flushes > 0 && writtenNow > 0 && settlesBegun > settled && settled > 0)
  assert.deepEqual({ lost, invented }, { lost: 0, invented: 0 })
})

test('an overlay whose fsync is left out is found out', async t => {
  const found = { lost: 0, refused: 0 }
  for (let seed = FIRST; seed < FIRST + 20; seed++)
    await powerCuts(seed, 1, 5, () => ({ forgetsSyncs: true })).then(
      ({ lost, invented }) => {
        found.lost += lost + invented
      },
      () => {
        found.refused++
      },
    )
  t.diagnostic(`20 stories without any fsync: ${found.lost} blocks lost, ${found.refused} overlays refused`)
  assert.ok(found.lost + found.refused > 0)
})
