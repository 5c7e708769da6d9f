/** R21: eight connections in three header modes over one device; what they read is held against what was written. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import type { BlockDevice } from '../../src/block/block-device.ts'
import { systemClock } from '../../src/core/clock.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { serveNbd } from '../../src/nbd/server.ts'
import { checkRegisters, choices, observedFlushes, type RegisterReport } from '../doubles/register-check.ts'

export const SECTORS = 1024
const MODES = ['simple', 'structured', 'extended'] as const
const KINDS = ['memory', 'slow memory', 'file', 'overlay'] as const

export interface RegisterRun {
  readonly kind: (typeof KINDS)[number]
  readonly folder: string
  readonly operations: number
  readonly seed: number
}

export async function checkServer(
  device: BlockDevice,
  { folder, operations, seed }: Omit<RegisterRun, 'kind'>,
): Promise<RegisterReport> {
  const socket = join(folder, 'nbd.sock')
  const observed = observedFlushes(device)
  const exports = [{ name: 'disk', device: observed, readOnly: false }]
  await using stack = new AsyncDisposableStack()
  stack.use(await serveNbd({ exports, listen: { socket }, clock: systemClock }))
  const connections: BlockDevice[] = []
  for (let i = 0; i < 8; i++) {
    const headers = MODES[i % 3]!
    const client = stack.use(await connectNbd({ socket, exportName: 'disk', headers, clock: systemClock }))
    assert.equal(client.headers, headers)
    connections.push(client)
  }
  return await checkRegisters({ connections, observed, sectors: SECTORS, operations, depth: 4, random: choices(seed) })
}

/** In a thread of its own: the test runner follows every promise of this one, which costs three times what is tested. */
const checked = (run: RegisterRun): Promise<RegisterReport> =>
  new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./nbd-register-worker.ts', import.meta.url), { workerData: run })
    worker.once('message', resolve)
    worker.once('error', reject)
    worker.once('exit', code => reject(new Error(`the thread ended with ${code}`)))
  })

/** Over memory, memory whose requests end in any order, a file, and the overlay of a writable export; `operations` in all. */
export function registerTests(operations: number): void {
  const seed = Number(process.env.LIFEBOAT_TEST_SEED ?? 20261122)
  for (const kind of KINDS)
    test(`${kind}: no read is stale, torn or invented, no two readers disagree, and FLUSH and FUA reach the device`, async t => {
      const folder = await mkdtemp(join(tmpdir(), 'lifeboat-register-'))
      try {
        const report = await checked({ kind, folder, operations: Math.ceil(operations / KINDS.length), seed })
        say(t, report, seed)
        const { stale, torn, invented, disagree, unflushed } = report
        const found = { stale, torn, invented, disagree, unflushed }
        assert.deepEqual(found, { stale: 0, torn: 0, invented: 0, disagree: 0, unflushed: 0 })
      } finally {
        await rm(folder, { recursive: true, force: true })
      }
    })
}

export function say(t: TestContext, report: RegisterReport, seed: number): void {
  const { reads, writes, zeroes, flushes, stale, torn, invented, disagree, unflushed } = report
  t.diagnostic(
    `seed ${seed} (LIFEBOAT_TEST_SEED): checked ${reads + writes + zeroes + flushes} operations (${reads} reads, ${writes} writes, ${zeroes} zeroes, ${flushes} flushes); ` +
      `stale/torn/invented/disagree ${stale}/${torn}/${invented}/${disagree}, not made durable ${unflushed}`,
  )
}
