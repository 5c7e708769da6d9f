import { before, test } from 'node:test'
import { type EveryKind, everyKind, kinds, sweepKind } from '../../doubles/every-kind.ts'

let fixture: EveryKind
before(async () => {
  fixture = await everyKind()
})

for (const kind of Object.keys(kinds))
  test(`${kind}: each of 64 bits, each truncation and another of its kind under its name are found and named`, async () => {
    const tried = await sweepKind(fixture, kind, 64)
    console.log(`${kind}: ${tried} damages, ${tried} found and named`)
  })
