/** The clients of a soaked server, of every kind at once, each of which comes, does its part and goes, until the round is over. */
import assert from 'node:assert/strict'
import { systemClock } from '../../src/core/clock.ts'
import { MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts'
import * as C from '../../src/nbd/constants.ts'
import { visit } from '../fuzz/nbd-campaign.ts'
import { anyInput, Dice } from '../fuzz/nbd-cases.ts'
import { RawNbdClient } from './raw-nbd-client.ts'
import { checkRegisters, choices } from './register-check.ts'
import { type SoakedServer, WRITTEN_BYTES } from './soaked-server.ts'
import { readAtRandom } from './timed-readers.ts'

const MODES = ['simple', 'structured', 'extended'] as const

export interface SoakTally {
  /** Connections that behaved, each of which came and went. */
  clients: number
  reads: number
  /** EIO for who waited for the store. */
  failedReads: number
  /** Writes, zeroes, reads and flushes that were held against each other. */
  checkedOperations: number
  /** Bytes that are not those of the point, and whatever the check of registers does not accept. */
  wrong: number
  malformed: number
  halfOpen: number
  /** Clients that asked for much and took nothing, and such as went with replies on their way. */
  stalled: number
  vanished: number
  /** Clients that behaved, but were so slow on a busy machine that the server's deadline for the handshake dropped them; they came again. */
  slowHandshakes: number
}

export const emptyTally = (): SoakTally => ({
  clients: 0,
  reads: 0,
  failedReads: 0,
  checkedOperations: 0,
  wrong: 0,
  malformed: 0,
  halfOpen: 0,
  stalled: 0,
  vanished: 0,
  slowHandshakes: 0,
})

/** All of them for so long, and a store that is away for a moment in the middle of it. */
export async function soakRound(server: SoakedServer, tally: SoakTally, ms: number, seed: number): Promise<void> {
  const { socket } = server
  const end = systemClock.monotonicMs() + ms
  const isOver = () => systemClock.monotonicMs() > end
  let turn = 0
  /** At least once, so that no round of a busy machine is without one of them. */
  const again = async (one: (number: number) => Promise<void>) => {
    do await one(seed * 1000 + turn++)
    while (!isOver())
  }
  const connect = async (exportName: string, number: number, connections = 1): Promise<NbdClient> => {
    tally.clients += connections
    const headers = MODES[number % 3]!
    const request = { socket, exportName, headers, connections, clock: systemClock, handshakeMs: 60_000 }
    return patiently(tally, () => connectNbd(request))
  }

  const reader = (number: number) => read(server, tally, () => connect('read', number), number)
  const writer = (number: number) => write(tally, which => connect('written', number + which), number)
  const visitor = async (number: number) => {
    const dice = new Dice(number)
    await visit(socket, 'plain', anyInput(dice), dice)
    tally.malformed++
  }
  const vanishing = async (number: number) => {
    const client = await patiently(tally, () => RawNbdClient.go(socket, 'read', MODES[number % 3]))
    for (let i = 0; i < 8; i++) client.request(C.NBD_CMD_READ, ((number + i) % 40) * MiB, MiB, 0, i)
    await systemClock.sleep(number % 20)
    await client[Symbol.asyncDispose]()
    tally.vanished++
  }
  const greedy = async (mode: (typeof MODES)[number]) => {
    await using client = await patiently(tally, () => RawNbdClient.go(socket, 'read', mode))
    client.socket.pause()
    for (let i = 0; i < 32; i++) client.request(C.NBD_CMD_READ, 0, 32 * MiB, 0, i)
    await systemClock.sleep(ms / 2)
    tally.stalled++
  }
  /** They stay until the server is tired of them. */
  const silent = async () => {
    await using client = await RawNbdClient.open(socket)
    await client.closed
    tally.halfOpen++
  }
  const outage = async () => {
    await systemClock.sleep(ms / 2)
    server.refuseStore(true)
    await systemClock.sleep(Math.min(2_000, ms / 8))
    server.refuseStore(false)
  }
  await Promise.all([
    again(reader),
    again(reader),
    again(writer),
    again(visitor),
    again(visitor),
    again(vanishing),
    ...MODES.map(greedy),
    ...Array.from({ length: 20 }, silent),
    outage(),
  ])
}

/** The deadline is short, so that silent clients come and go within a round, and a machine at a load of 15 may let four seconds pass. */
async function patiently<T>(tally: SoakTally, connect: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++)
    try {
      return await connect()
    } catch (error) {
      if (tries === 5) throw error
      tally.slowHandshakes++
    }
}

async function read(
  { content }: SoakedServer,
  tally: SoakTally,
  connect: () => Promise<NbdClient>,
  number: number,
): Promise<void> {
  await using image = await connect()
  const random = seededRandom(`reader ${number}`)
  const plan = { image, expected: content, clock: systemClock, random, depth: 4, reads: 25, length: 8192 }
  const saw = await readAtRandom(plan)
  tally.reads += saw.tookMs.length
  tally.wrong += saw.wrong
  for (const { code } of saw.failures) assert.equal(code, 'nbd-io')
  tally.failedReads += saw.failures.length
}

/** Four connections in all header modes; the disk is zeroed before, as the check wants it. */
async function write(tally: SoakTally, connect: (which: number) => Promise<NbdClient>, number: number): Promise<void> {
  await using stack = new AsyncDisposableStack()
  const connections: NbdClient[] = []
  for (let which = 0; which < 4; which++) connections.push(stack.use(await connect(which)))
  await connections[0]!.zero({ offset: 0, length: WRITTEN_BYTES })
  const report = await checkRegisters({
    connections,
    // What reaches the device below is seen by tests in the server's own process.
    observed: { onFlush: () => {}, onFua: () => {} },
    sectors: WRITTEN_BYTES / 512,
    operations: 600,
    depth: 4,
    random: choices(number),
  })
  tally.checkedOperations += report.reads + report.writes + report.zeroes + report.flushes
  tally.wrong += report.stale + report.torn + report.invented + report.disagree
}

/** Milliseconds of a small read whose bytes are at hand: the lowest mean of several batches, which a busy machine disturbs least. */
export async function quietLatencyMs({ socket }: SoakedServer): Promise<number> {
  await using client = await connectNbd({ socket, exportName: 'written', clock: systemClock, handshakeMs: 60_000 })
  const target = Buffer.alloc(4096)
  const means: number[] = []
  for (let batch = 0; batch < 20; batch++) {
    const start = performance.now()
    for (let i = 0; i < 25; i++) await client.readInto(target, i * 4096)
    means.push((performance.now() - start) / 25)
  }
  return Math.min(...means)
}

/** What the point's own disk holds, byte for byte, once nothing is in the way. */
export async function readWhole({ socket, content }: SoakedServer): Promise<boolean> {
  await using client = await connectNbd({ socket, exportName: 'read', clock: systemClock, handshakeMs: 60_000 })
  const target = Buffer.alloc(MiB)
  for (let at = 0; at < content.length; at += MiB) {
    await client.readInto(target, at)
    if (!target.equals(content.subarray(at, at + MiB))) return false
  }
  return true
}
