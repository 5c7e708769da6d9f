/**
 * R23 for the server: a session that runs for long under clients of every kind and a store that fails. Between rounds, when
 * all clients have gone, it holds no more than in the rounds before: memory, descriptors, and the time that a read takes.
 */
import assert from 'node:assert/strict'
import { systemClock } from '../../src/core/clock.ts'
import { MiB } from '../../src/core/limits.ts'
import { emptyTally, quietLatencyMs, readWhole, type SoakTally, soakRound } from '../doubles/soak-clients.ts'
import { type Held, type SoakedServer, startSoakedServer } from '../doubles/soaked-server.ts'
import { percentile } from '../doubles/timed-readers.ts'

/** Fewer would have no first and last third. None is shorter than the ten seconds after which silent clients are dropped. */
const ROUNDS_MIN = 8

export interface SoakRun {
  readonly minutes: number
  /** The server is one that leaks on purpose. */
  readonly leaks?: boolean
  readonly say: (line: string) => void
}

export interface Sample extends Held {
  readonly latencyMs: number
}

/** Between the first and the last third of the samples, those of the warm-up left out. */
export interface Growth {
  readonly what: string
  readonly first: number
  readonly last: number
  /** What of it is no growth: noise, as it was found on runs without any leak, and what R23 grants an hour. */
  readonly granted: number
}

export interface SoakReport {
  readonly tally: SoakTally
  readonly injected: ReadonlyMap<string, number>
  readonly growth: readonly Growth[]
}

export async function soak({ minutes, leaks = false, say }: SoakRun): Promise<SoakReport> {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 1e6))
  say(`seed ${seed} (SEED), ${minutes} minutes (MINUTES)${leaks ? ', with leaks' : ''}`)
  await using server = await startSoakedServer({ seed: `soak ${seed}`, leaks })
  const tally = emptyTally()
  const samples: Sample[] = []
  const started = systemClock.monotonicMs()
  const passedMs = () => systemClock.monotonicMs() - started
  const roundMs = Math.min(60_000, (minutes * 60_000) / ROUNDS_MIN)
  for (let round = 0; passedMs() < minutes * 60_000 || round < ROUNDS_MIN; round++) {
    await soakRound(server, tally, roundMs, seed + round).catch(cause => {
      const why = server.said.split('\n').filter(line => !line.includes('handshake deadline'))
      throw new Error(`in round ${round} a client failed; the server said: ${why.slice(-20).join('\n')}`, { cause })
    })
    samples.push(await quietSample(server))
    const { residentBytes, liveBytes, descriptors, latencyMs } = samples.at(-1)!
    say(
      `after ${Math.round(passedMs() / 1000)} s: resident ${inMiB(residentBytes)}, live ${inMiB(liveBytes)} MiB, ` +
        `${descriptors} descriptors, ${latencyMs.toFixed(3)} ms a read`,
    )
  }
  const { injected } = server
  assert.ok(await readWhole(server), 'the whole disk is what was backed up')
  const { code, said } = await server.stop()
  assert.equal(code, 0, said)
  assert.ok(!said.includes('internal error'), said)
  const growth = growthOf(samples, passedMs() / 60_000)
  say(`clients: ${JSON.stringify(tally)}`)
  say(`faults: ${[...injected].map(([name, count]) => `${count} ${name}`).join(', ')}`)
  for (const { what, first, last, granted } of growth)
    say(`${what}: ${first.toFixed(2)}, then ${last.toFixed(2)}; granted ${granted.toFixed(2)}`)
  return { tally, injected, growth }
}

/** What has grown by more than is granted. */
export const grown = ({ growth }: SoakReport): string[] =>
  growth.filter(({ first, last, granted }) => last - first > granted).map(({ what }) => what)

/** Nobody was given a wrong byte, every kind of client and of fault came by, and nothing grew. */
export function assertSound(report: SoakReport): void {
  const { tally, injected } = report
  const { wrong, failedReads: _failedReads, slowHandshakes, ...cameBy } = tally
  assert.equal(wrong, 0)
  assert.ok(slowHandshakes <= 5 + tally.clients / 100, `${slowHandshakes} handshakes of good clients failed`)
  for (const [name, count] of [...Object.entries(cameBy), ...injected]) assert.ok(count > 0, `never came by: ${name}`)
  assert.deepEqual(grown(report), [])
}

/** When the last of the round is gone: what they leave is taken down in the turns after it. */
async function quietSample(server: SoakedServer): Promise<Sample> {
  await systemClock.sleep(500)
  const latencyMs = await quietLatencyMs(server)
  return { ...(await server.held()), latencyMs }
}

function growthOf(samples: readonly Sample[], minutes: number): Growth[] {
  const hours = minutes / 60
  const warm = samples.slice(Math.ceil(samples.length / 4))
  const third = Math.floor(warm.length / 3)
  const [first, last] = [warm.slice(0, third), warm.slice(-third)]
  const medians = (of: (sample: Sample) => number) => ({
    first: percentile(first.map(of), 0.5),
    last: percentile(last.map(of), 0.5),
  })
  // The least, which a busy machine disturbs least; there is nothing to warm up but the compiler, which makes it less.
  const least = (some: readonly Sample[]) => Math.min(...some.map(({ latencyMs }) => latencyMs))
  const latency = { first: least(samples.slice(0, 2)), last: least(last) }
  return [
    // The allocator keeps what the fullest moments of the first minutes took: 430 MiB after three minutes, and after ten.
    {
      what: 'resident MiB',
      ...medians(({ residentBytes }) => residentBytes / MiB),
      granted: (minutes < 10 ? 96 : 8) + hours,
    },
    { what: 'live MiB', ...medians(({ liveBytes }) => liveBytes / MiB), granted: (minutes < 10 ? 6 : 2) + hours },
    { what: 'descriptors', ...medians(({ descriptors }) => descriptors), granted: 8 },
    { what: 'ms a read', ...latency, granted: 2 * latency.first },
  ]
}

const inMiB = (bytes: number): string => (bytes / MiB).toFixed(1)
