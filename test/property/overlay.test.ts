import { test } from 'node:test'
import { overlayModel } from './overlay-model.ts'

const SEEDS = Number(process.env.SEEDS ?? 150)
const FIRST = Number(process.env.SEED ?? 1)

test('an overlay and a plain array hold the same, through freezes, settles, kills and power cuts', async t => {
  const total: Record<string, number> = {}
  for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
    const counts = await overlayModel(seed, Number(process.env.STEPS ?? 15)).catch(cause => {
      throw new Error(`SEED=${seed} SEEDS=1: ${cause.message}`, { cause })
    })
    for (const [what, n] of Object.entries(counts)) total[what] = (total[what] ?? 0) + n
  }
  t.diagnostic(`${SEEDS} seeds from ${FIRST}: ${JSON.stringify(total)}`)
})
