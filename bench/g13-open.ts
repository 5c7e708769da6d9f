/**
 * G13: opening a point of 10 TiB costs what opening one of 1 GiB costs: requests, and time at 10 ms a request, from nothing to
 * an export that serves; and the first read in the middle of the disk takes at most two requests more.
 */
import path from 'node:path'
import { ChunkCache } from '../src/cache/chunk-cache.ts'
import { systemClock } from '../src/core/clock.ts'
import { GiB, MiB } from '../src/core/limits.ts'
import { connectNbd } from '../src/nbd/client.ts'
import { exportPoint } from '../src/recovery/export.ts'
import { metered, type StoreFigures } from '../src/storage/metered.ts'
import { distant } from './distant-store.ts'
import { type Goal, judge, median } from './goal.ts'
import { exporter, type Synthetic, synthetic } from './synthetic.ts'

const LINK = { latencyMs: 10, bytesPerSecond: 150e6 }
const SMALL = 1 * GiB
const HUGE = 10 * 1024 * GiB
/** In one round, of each: an opening takes a tenth of a second, in which a shared machine may do anything. */
const OPENINGS = 15

interface Opening {
  readonly requests: number
  readonly seconds: number
  readonly firstReadRequests: number
  readonly firstReadSeconds: number
}

export const goal: Goal = {
  id: 'G13',
  title: 'opening a point',
  async run({ dir, rounds, record, say }) {
    const [small, huge] = [await synthetic(SMALL), await synthetic(HUGE)]
    // The first opening of a process pays for loading code.
    await opening(small, SMALL, dir)
    const pairs: { small: Opening; huge: Opening }[] = []
    for (let round = 0; round < rounds; round++) {
      const openings: { small: Opening[]; huge: Opening[] } = { small: [], huge: [] }
      for (let n = 0; n < OPENINGS; n++) {
        // In turns, so that neither is always the second.
        if (n % 2 === 0) openings.small.push(await opening(small, SMALL, dir))
        openings.huge.push(await opening(huge, HUGE, dir))
        if (n % 2 === 1) openings.small.push(await opening(small, SMALL, dir))
      }
      const pair = { small: medianOf(openings.small), huge: medianOf(openings.huge) }
      pairs.push(pair)
      const words = ({ requests, seconds, firstReadRequests }: Opening) =>
        `${requests} requests, ${(seconds * 1000).toFixed(0)} ms, first read ${firstReadRequests} requests`
      say(`1 GiB: ${words(pair.small)}; 10 TiB: ${words(pair.huge)}`)
    }
    record('rounds', pairs)
    const ratios = (value: (opening: Opening) => number) => pairs.map(({ small, huge }) => value(huge) / value(small))
    const row = (what: string, values: readonly number[], atMost: number, peer = '1 GiB point') =>
      judge({ goal: `G13: ${what}`, product: '10 TiB point', peer, ratios: values, target: { atMost } })
    return [
      row(
        'requests',
        ratios(({ requests }) => requests),
        1.1,
      ),
      row(
        'time',
        ratios(({ seconds }) => seconds),
        1.1,
      ),
      row(
        'requests more of the first read',
        pairs.map(({ small, huge }) => (huge.firstReadRequests - small.firstReadRequests) / 2),
        1,
        'two requests',
      ),
    ]
  },
}

async function opening({ store, point, open }: Synthetic, size: number, dir: string): Promise<Opening> {
  const { store: counted, meter } = metered(distant(store, LINK))
  const socket = path.join(dir, `${size}.sock`)
  const started = performance.now()
  await using repository = await open(counted)
  await using _running = await exportPoint({
    repository,
    point,
    listen: { socket },
    exporter,
    cache: new ChunkCache({ maxBytes: 64 * MiB }),
  })
  const [seconds, requests] = [(performance.now() - started) / 1000, count(meter.figures())]
  // What opening fetches ahead must not be counted as the first read's.
  await systemClock.sleep(200)
  const settled = count(meter.figures())
  await using client = await connectNbd({ socket, exportName: 'vda', clock: systemClock })
  const readAt = performance.now()
  await client.readInto(new Uint8Array(4096), Math.floor(size / 2))
  return {
    requests,
    seconds,
    firstReadRequests: count(meter.figures()) - settled,
    firstReadSeconds: (performance.now() - readAt) / 1000,
  }
}

const medianOf = (openings: readonly Opening[]): Opening => {
  const of = (value: (opening: Opening) => number) => median(openings.map(value))
  return {
    requests: of(({ requests }) => requests),
    seconds: of(({ seconds }) => seconds),
    firstReadRequests: of(({ firstReadRequests }) => firstReadRequests),
    firstReadSeconds: of(({ firstReadSeconds }) => firstReadSeconds),
  }
}

const count = (figures: StoreFigures): number => Object.values(figures).reduce((sum, { requests }) => sum + requests, 0)
