/**
 * Every sector of a device as a register that says who wrote it: many connections read and write at once, and each read is
 * held against what may be there. All runs in one process, so that one counter orders the beginnings and ends of requests.
 *
 * A value may be read from the beginning of its write until the end of a later one: *stale* is one whose write had ended
 * before another began that was acknowledged before the read; *disagree* the same where another reader has seen the newer
 * one, or where readers differ when nobody writes; *torn* a sector that is not one value; *invented* one that nobody wrote.
 */
import type { BlockDevice } from '../../src/block/block-device.ts'
import { forEachLimited } from '../../src/core/scope.ts'

const SECTOR = 512
const UNIT = 16

export interface RegisterReport {
  reads: number
  writes: number
  zeroes: number
  flushes: number
  stale: number
  torn: number
  invented: number
  disagree: number
  /** FLUSH or FUA that was answered although the device had not been told to make it durable. */
  unflushed: number
}

interface Write {
  readonly writer: number
  readonly sequence: number
  readonly start: number
  end: number
}

interface Register {
  /** Writes whose value may still be read. */
  live: Write[]
  /** The youngest beginning of a write that was acknowledged, or seen by a reader. */
  acknowledged: number
  seen: number
  /** Reads under way: they may get what a later one may not, so nothing is forgotten meanwhile. */
  readers: number
}

/** Tells when the device below was told to make things durable. */
export function observedFlushes(device: BlockDevice): BlockDevice & { onFlush: () => void; onFua: () => void } {
  const observed = {
    ...device,
    onFlush: () => {},
    onFua: () => {},
    flush: async (options?: Parameters<BlockDevice['flush']>[0]) => {
      observed.onFlush()
      await device.flush(options)
    },
    write: async (...[source, offset, options]: Parameters<BlockDevice['write']>) => {
      if (options?.fua) observed.onFua()
      await device.write(source, offset, options)
    },
    zero: (...args: Parameters<BlockDevice['zero']>) => device.zero(...args),
    trim: (...args: Parameters<BlockDevice['trim']>) => device.trim(...args),
    readInto: (...args: Parameters<BlockDevice['readInto']>) => device.readInto(...args),
    extents: (...args: Parameters<BlockDevice['extents']>) => device.extents(...args),
    [Symbol.asyncDispose]: () => device[Symbol.asyncDispose](),
  }
  return observed
}

export interface RegisterCheck {
  readonly connections: readonly BlockDevice[]
  /** All zeros at the beginning. */
  readonly observed: { onFlush: () => void; onFua: () => void }
  readonly sectors: number
  readonly operations: number
  /** Requests under way on each connection. */
  readonly depth: number
  readonly random: (below: number) => number
}

export async function checkRegisters(check: RegisterCheck): Promise<RegisterReport> {
  const { connections, sectors, operations, depth, random } = check
  const report: RegisterReport = {
    reads: 0,
    writes: 0,
    zeroes: 0,
    flushes: 0,
    stale: 0,
    torn: 0,
    invented: 0,
    disagree: 0,
    unflushed: 0,
  }
  let clock = 0
  let lastFlush = 0
  let fuas = 0
  check.observed.onFlush = () => {
    lastFlush = ++clock
  }
  check.observed.onFua = () => {
    fuas++
  }
  const initial: Write = { writer: 0, sequence: 0, start: 0, end: 0 }
  const registers = Array.from(
    { length: sectors },
    (): Register => ({ live: [initial], acknowledged: 0, seen: 0, readers: 0 }),
  )
  const sequences = connections.map(() => 0)

  /** Mostly a few sectors, sometimes more than is sent in one piece with others. */
  const someSectors = (): { first: number; count: number } => {
    const count = random(60) === 0 ? 64 + random(100) : 1 + random(8)
    return { first: random(sectors - count), count }
  }
  const prune = (register: Register) => {
    const floor = Math.max(register.acknowledged, register.seen)
    if (register.live.length > 8 && register.readers === 0)
      register.live = register.live.filter(({ end }) => end >= floor)
  }

  async function write(index: number, zero: boolean): Promise<void> {
    const { first, count } = someSectors()
    const sequence = zero ? 0 : ++sequences[index]!
    const value: Write = { writer: zero ? 0 : index + 1, sequence, start: ++clock, end: Number.POSITIVE_INFINITY }
    for (let sector = first; sector < first + count; sector++) registers[sector]!.live.push(value)
    const fua = random(50) === 0
    const before = fuas
    if (zero) await connections[index]!.zero({ offset: first * SECTOR, length: count * SECTOR })
    else await connections[index]!.write(sealed(first, count, value), first * SECTOR, { fua })
    if (fua && !zero && fuas === before) report.unflushed++
    value.end = ++clock
    for (let sector = first; sector < first + count; sector++) {
      const register = registers[sector]!
      register.acknowledged = Math.max(register.acknowledged, value.start)
      prune(register)
    }
    if (zero) report.zeroes++
    else report.writes++
  }

  async function read(index: number): Promise<void> {
    const { first, count } = someSectors()
    const read = registers.slice(first, first + count)
    const floors = read.map(register => {
      register.readers++
      return { acknowledged: register.acknowledged, seen: register.seen }
    })
    const target = Buffer.alloc(count * SECTOR, 0xee)
    await connections[index]!.readInto(target, first * SECTOR)
    for (const [i, floor] of floors.entries()) {
      judge(first + i, target.subarray(i * SECTOR, (i + 1) * SECTOR), floor)
      read[i]!.readers--
    }
    report.reads++
  }

  function judge(sector: number, bytes: Buffer, floor: { acknowledged: number; seen: number }): void {
    if (!isWhole(bytes)) {
      report.torn++
      return
    }
    const [writer, sequence] = [bytes.readUInt32BE(0), bytes.readUInt32BE(4)]
    const register = registers[sector]!
    // Of several zeroings the kindest counts. A value that is no longer kept ended before the floor.
    let end = -1
    for (const value of register.live) {
      if (value.writer !== writer || value.sequence !== sequence) continue
      end = Math.max(end, value.end)
      if (writer > 0) register.seen = Math.max(register.seen, value.start)
    }
    const known = writer > 0 ? (sequences[writer - 1] ?? 0) : 0
    if ((writer > 0 && bytes.readUInt32BE(8) !== sector) || sequence > known) report.invented++
    else if (end < floor.acknowledged) report.stale++
    else if (end < floor.seen) report.disagree++
  }

  async function flush(index: number): Promise<void> {
    const sent = ++clock
    await connections[index]!.flush()
    if (lastFlush < sent) report.unflushed++
    report.flushes++
  }

  /** When nobody writes, all connections see the same. */
  async function agree(): Promise<void> {
    const all = await Promise.all(
      connections.map(async connection => {
        const target = Buffer.alloc(sectors * SECTOR)
        await connection.readInto(target, 0)
        return target
      }),
    )
    for (const target of all)
      for (let sector = 0; sector < sectors; sector++) {
        const at = sector * SECTOR
        if (target.compare(all[0]!, at, at + SECTOR, at, at + SECTOR) !== 0) report.disagree++
        judge(sector, target.subarray(at, at + SECTOR), registers[sector]!)
      }
  }

  const ROUND = 10_000
  for (let done = 0; done < operations; done += ROUND) {
    const count = Math.min(ROUND, operations - done)
    await Promise.all(
      connections.map((_connection, index) =>
        forEachLimited(mine(count, index, connections.length), depth, async () => {
          const kind = random(100)
          if (kind < 55) await read(index)
          else if (kind < 92) await write(index, false)
          else if (kind < 98) await write(index, true)
          else await flush(index)
        }),
      ),
    )
    await agree()
  }
  return report
}

function* mine(count: number, index: number, of: number): Generator<number> {
  for (let i = index; i < count; i += of) yield i
}

/** The value in every 16 bytes of every sector. */
function sealed(first: number, count: number, { writer, sequence }: Write): Buffer {
  const bytes = Buffer.allocUnsafe(count * SECTOR)
  for (let i = 0; i < count; i++) {
    const at = i * SECTOR
    bytes.writeUInt32BE(writer, at)
    bytes.writeUInt32BE(sequence, at + 4)
    bytes.writeUInt32BE(first + i, at + 8)
    bytes.writeUInt32BE(0xfeedbeef, at + 12)
    for (let length = UNIT; length < SECTOR; length *= 2) bytes.copyWithin(at + length, at, at + length)
  }
  return bytes
}

const isWhole = (bytes: Buffer): boolean => bytes.compare(bytes, 0, SECTOR - UNIT, UNIT, SECTOR) === 0

/** Repeatable choices from a seed. */
export function choices(seed: number): (below: number) => number {
  let state = seed >>> 0
  return below => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0
    return Math.floor((((state ^ (state >>> 13)) >>> 0) / 2 ** 32) * below)
  }
}
