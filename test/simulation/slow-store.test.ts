/** R8 and R9 by a clock that is told to go on: what readers of live exports see of a store that is slow, or away. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cachedImage } from '../../src/cache/cached-image.ts'
import { ChunkCache } from '../../src/cache/chunk-cache.ts'
import { seededRandom } from '../../src/core/random.ts'
import { hedged } from '../../src/storage/hedged.ts'
import { retrying } from '../../src/storage/retrying.ts'
import { elapsing, manualClock } from '../doubles/manual-clock.ts'
import { noise, type RepositoryFixture, repositoryFixture } from '../doubles/repository-fixture.ts'
import { percentile, readAtRandom } from '../doubles/timed-readers.ts'
import { type GetTiming, timedStore } from '../doubles/timed-store.ts'

const KiB = 1024
const USUAL: GetTiming = { firstByteMs: 10, bytesPerSecond: 20e6 }
const DISK = 4 * 1024 * KiB

/** Two VMs, each in packs of its own. */
async function twoMachines() {
  const fixture = await repositoryFixture()
  const machine = async (vm: string) => {
    const bytes = noise(vm, DISK)
    const before = new Set(fixture.store.snapshot().keys())
    const point = await fixture.writePoint({ vm, disks: [{ name: 'vda', size: DISK, writes: [[0, bytes]] }] })
    const packs = new Set(
      [...fixture.store.snapshot().keys()].filter(key => key.startsWith('packs/') && !before.has(key)),
    )
    return { bytes, point, packs }
  }
  return { fixture, slow: await machine('slow'), good: await machine('good') }
}

interface World {
  readonly timing: (key: string) => GetTiming
  readonly isAway?: (ms: number) => boolean
  readonly retryForMs?: number
}

/** Opens the two exports of one process through a store that behaves by `world`. No time has passed when this resolves. */
async function exportsThrough(
  {
    fixture,
    slow,
    good,
  }: { fixture: RepositoryFixture } & Pick<Awaited<ReturnType<typeof twoMachines>>, 'slow' | 'good'>,
  { timing, isAway = () => false, retryForMs = 60_000 }: World,
) {
  const clock = manualClock()
  let isLive = false
  const timed = timedStore(fixture.store, {
    clock,
    timing: key => (isLive ? timing(key) : { firstByteMs: 0, bytesPerSecond: Number.POSITIVE_INFINITY }),
    isAway: () => isLive && isAway(clock.monotonicMs()),
  })
  const hedging = hedged(timed, { clock })
  const store = retrying(hedging, { clock, random: seededRandom('patience'), retryForMs })
  // One repository for both, as in one process.
  const repository = await elapsing(clock, fixture.open(store))
  const disks = await Promise.all(
    [slow, good].map(async ({ point }) => {
      const opened = await elapsing(clock, repository.openPoint(point, { pin: 'none' }))
      return cachedImage(opened.disk('vda'), { cache: new ChunkCache({ maxBytes: 256 * KiB }) })
    }),
  )
  isLive = true
  return { clock, hedging, slowImage: disks[0]!, goodImage: disks[1]! }
}

test('R8: 30 s to the first byte, bodies at 1 KB/s: hedging hides them, and no other export notices a hanging one', async () => {
  const machines = await twoMachines()
  const good = async (timing: (key: string) => GetTiming, withNeighbour: boolean) => {
    const { clock, hedging, slowImage, goodImage } = await exportsThrough(machines, { timing })
    const common = { clock, length: 4 * KiB }
    const neighbours = withNeighbour
      ? readAtRandom({
          ...common,
          image: slowImage,
          expected: machines.slow.bytes,
          random: seededRandom('slow'),
          depth: 64,
          reads: 20,
        })
      : undefined
    const own = { ...common, image: goodImage, expected: machines.good.bytes, random: seededRandom('good') }
    const saw = await elapsing(clock, readAtRandom({ ...own, depth: 4, reads: 250, thinkMs: 5 }))
    const neighbour = neighbours && (await elapsing(clock, neighbours))
    return { saw, neighbour, hedges: hedging.hedges() }
  }
  const alone = await good(() => USUAL, false)
  // Every GET of the neighbour's packs hangs.
  let hung = 0
  const hanging = await good(key => {
    if (!machines.slow.packs.has(key)) return USUAL
    hung++
    return { firstByteMs: 30_000, bytesPerSecond: 1_000 }
  }, true)
  // One in a hundred GETs of everybody hangs, another has a body that trickles.
  const draw = seededRandom('one in a hundred')
  const injected = { hang: 0, trickle: 0 }
  const sick = await good(() => {
    const drawn = Buffer.from(draw(2)).readUInt16BE(0) / 65_536
    if (drawn < 0.01) {
      injected.hang++
      return { firstByteMs: 30_000, bytesPerSecond: 20e6 }
    }
    if (drawn < 0.02) {
      injected.trickle++
      return { firstByteMs: 10, bytesPerSecond: 1_000 }
    }
    return USUAL
  }, true)
  const p = (values: readonly number[]) =>
    `p50 ${percentile(values, 0.5).toFixed(0)} ms, p99 ${percentile(values, 0.99).toFixed(0)} ms, longest ${Math.max(...values).toFixed(0)} ms`
  console.log(`alone:                       ${p(alone.saw.tookMs)}`)
  console.log(
    `neighbour hangs (${hung} GETs):  ${p(hanging.saw.tookMs)}; the neighbour ${p(hanging.neighbour?.tookMs ?? [])}`,
  )
  console.log(`injected ${JSON.stringify(injected)}:     ${p(sick.saw.tookMs)}; hedges ${JSON.stringify(sick.hedges)}`)
  assert.ok(hung > 100 && injected.hang > 5 && injected.trickle > 5)
  assert.ok(percentile(hanging.saw.tookMs, 0.99) < 2 * percentile(alone.saw.tookMs, 0.99))
  assert.ok(percentile(sick.saw.tookMs, 0.99) < 4 * percentile(alone.saw.tookMs, 0.99))
  assert.ok(Math.max(...hanging.saw.tookMs, ...(hanging.neighbour?.tookMs ?? [])) < 24 * 3_600_000)
  for (const { saw, neighbour } of [alone, hanging, sick])
    assert.deepEqual([saw.wrong, saw.failures, neighbour?.wrong ?? 0, neighbour?.failures ?? []], [0, [], 0, []])
})

test('R9: a store that is away for less than --retry-for is invisible but for time', async () => {
  const machines = await twoMachines()
  for (const awayMs of [1_000, 30_000, 59_900]) {
    let refused = 0
    const { clock, slowImage } = await exportsThrough(machines, {
      timing: () => USUAL,
      isAway: ms => {
        const isAway = ms >= 500 && ms < 500 + awayMs
        if (isAway) refused++
        return isAway
      },
    })
    const plan = { clock, image: slowImage, expected: machines.slow.bytes, random: seededRandom('r9'), length: 4 * KiB }
    const saw = await elapsing(clock, readAtRandom({ ...plan, depth: 8, reads: 100, thinkMs: 20 }))
    console.log(
      `away for ${awayMs} ms: ${refused} requests refused, longest read ${Math.max(...saw.tookMs).toFixed(0)} ms`,
    )
    assert.ok(refused > 0 && Math.max(...saw.tookMs) > 400)
    assert.deepEqual([saw.failures, saw.wrong, saw.tookMs.length], [[], 0, 800])
  }
})

test('R9: of a longer outage those who waited get an error, nobody for ever, and later reads work', async () => {
  const machines = await twoMachines()
  const [from, until] = [500, 500 + 200_000]
  const retryForMs = 60_000
  const { clock, slowImage } = await exportsThrough(machines, {
    timing: () => USUAL,
    isAway: ms => ms >= from && ms < until,
    retryForMs,
  })
  const plan = { clock, image: slowImage, expected: machines.slow.bytes, random: seededRandom('r9'), length: 4 * KiB }
  const saw = await elapsing(clock, readAtRandom({ ...plan, depth: 8, reads: 100, thinkMs: 20 }))
  const longest = Math.max(...saw.failures.map(({ tookMs }) => tookMs))
  const lastFailed = Math.max(...saw.failures.map(({ atMs, tookMs }) => atMs + tookMs))
  console.log(
    `away for 200 s: ${saw.failures.length} reads failed after at most ${longest} ms, the last at ${lastFailed} ms; ` +
      `${saw.tookMs.length} succeeded, wrong ${saw.wrong}`,
  )
  assert.ok(saw.failures.length >= 8 && saw.tookMs.length > 500)
  assert.ok(saw.failures.every(({ code }) => code === 'store-unreachable'))
  assert.ok(longest < 2 * retryForMs + 1_000, 'one window for whoever asks himself, two for who joined another')
  assert.ok(lastFailed < until + 100, 'what is asked when the store is back works')
  assert.equal(saw.wrong, 0)
})
