/** What is kept open: opened once for all, closed once, whatever order uses, failures and time come in. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../../src/core/random.ts'
import { KeptOpen, type Use } from '../../../src/mount/kept-open.ts'
import { manualClock } from '../../doubles/manual-clock.ts'

interface Thing extends AsyncDisposable {
  isClosed: boolean
}

function kept(max: number, failing: () => boolean = () => false) {
  const clock = manualClock()
  const things: Thing[] = []
  const troubles: string[] = []
  const pool = new KeptOpen<object, Thing>({
    noun: 'things',
    clock,
    max,
    idleMs: 1_000,
    onTrouble: message => troubles.push(message),
    async open() {
      await new Promise(resolve => setImmediate(resolve))
      if (failing()) throw new Error('it does not open')
      const thing: Thing = {
        isClosed: false,
        async [Symbol.asyncDispose]() {
          assert.ok(!thing.isClosed, 'closed twice')
          thing.isClosed = true
        },
      }
      things.push(thing)
      return thing
    },
  })
  return { clock, things, troubles, pool }
}

test('those who come at once share one, which outlives the first that leaves and is closed a while after the last', async () => {
  const { pool, clock, things } = kept(2)
  const key = {}
  const uses = await Promise.all([pool.use(key), pool.use(key), pool.use(key)])
  assert.equal(things.length, 1)
  uses[0][Symbol.dispose]()
  uses[0][Symbol.dispose]()
  uses[1][Symbol.dispose]()
  await clock.advance(5_000)
  assert.equal(things[0]!.isClosed, false)
  uses[2][Symbol.dispose]()
  await clock.advance(500)
  ;(await pool.use(key))[Symbol.dispose]()
  await clock.advance(999)
  assert.equal(things[0]!.isClosed, false, 'it was used again')
  await clock.advance(1)
  assert.equal(things[0]!.isClosed, true)
  assert.equal(pool.size, 0)
})

test('who stops waiting does not stop the opening for the others; a failed opening is tried again', async () => {
  let fails = 1
  const { pool, things } = kept(2, () => fails-- > 0)
  const key = {}
  await assert.rejects(pool.use(key), /does not open/)
  const gone = new AbortController()
  const [left, stayed] = [pool.use(key, { signal: gone.signal }), pool.use(key)]
  gone.abort(new Error('gone'))
  await assert.rejects(left, /gone/)
  assert.equal((await stayed).value, things[0])
  await pool[Symbol.asyncDispose]()
  assert.equal(things[0]!.isClosed, true)
})

test('random uses, failures and times: never more than there may be, none closed while used, all closed at the end', async () => {
  const random = seededRandom('kept-open')
  const draw = (below: number) => random(1)[0]! % below
  const { pool, clock, things, troubles } = kept(4, () => draw(8) === 0)
  const keys = Array.from({ length: 8 }, () => ({}))
  const uses: Use<Thing>[] = []
  const counts = { opened: 0, failed: 0, refused: 0, gaveUp: 0 }
  for (let step = 0; step < 3_000; step++) {
    const move = draw(6)
    if (move < 3 && uses.length < 12)
      try {
        uses.push(await pool.use(keys[draw(keys.length)]!))
        counts.opened++
      } catch (error) {
        if (error instanceof Error && 'code' in error && error.code === 'too-many-open') counts.refused++
        else counts.failed++
      }
    else if (move < 5) uses.splice(draw(uses.length || 1), 1)[0]?.[Symbol.dispose]()
    else if (draw(4) === 0 && uses.length > 0) {
      uses[0]!.giveUp()
      counts.gaveUp++
    } else await clock.advance(draw(4) * 300)
    for (const { value } of uses) assert.ok(!value.isClosed, 'closed while it is used')
    assert.ok(pool.size <= 4)
  }
  process.stdout.write(`${JSON.stringify(counts)}, ${things.length} things\n`)
  assert.ok(Object.values(counts).every(count => count > 5))
  for (const use of uses) use[Symbol.dispose]()
  await pool[Symbol.asyncDispose]()
  assert.ok(things.every(({ isClosed }) => isClosed))
  assert.deepEqual(troubles, [])
})
