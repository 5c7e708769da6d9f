/** Random bytes and random sequences of nearly right messages against the server, which must outlive and bound them all. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { memoryDevice } from '../../src/block/memory.ts'
import { systemClock } from '../../src/core/clock.ts'
import { MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { forEachLimited } from '../../src/core/scope.ts'
import * as C from '../../src/nbd/constants.ts'
import * as O from '../../src/nbd/option-codec.ts'
import { serveNbd } from '../../src/nbd/server.ts'
import { emptyRequest, type HeaderMode, putRequest, requestHeaderBytes } from '../../src/nbd/wire.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { RawNbdClient } from '../doubles/raw-nbd-client.ts'
import { slowDevice } from '../doubles/slow-device.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-nbd-fuzz-'))
after(() => rm(folder, { recursive: true, force: true }))

const seed = Number(process.env.LIFEBOAT_TEST_SEED ?? 20261121)
const SIZE = MiB

/** Random choices of one case, repeatable from the printed seed and the case's number. */
class Dice {
  #state: number

  constructor(text: number) {
    this.#state = (text * 2654435761) >>> 0
  }

  below(count: number): number {
    this.#state = (Math.imul(this.#state ^ (this.#state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0
    return Math.floor((((this.#state ^ (this.#state >>> 13)) >>> 0) / 2 ** 32) * count)
  }

  of<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)))
  }

  mutated(bytes: Buffer): Buffer {
    const copy = Buffer.from(bytes)
    for (let count = this.below(4); count > 0 && copy.length > 0; count--)
      copy[this.below(copy.length)] = this.below(256)
    return this.below(10) === 0 ? copy.subarray(0, this.below(copy.length + 1)) : copy
  }
}

function anyOption(dice: Dice): Buffer {
  const name = dice.of(['', 'disk', 'nope', 'x'.repeat(5000)])
  const queries = dice.of([[], ['base:'], ['base:allocation'], Array.from({ length: dice.below(300) }, () => 'q')])
  const option = dice.of([1, 2, 3, 5, 6, 7, 7, 8, 9, 10, 10, 11, 12, 0xffffffff])
  const payload = dice.of([
    Buffer.alloc(0),
    O.encodeGo(name, [0, 1, 2, 3]),
    O.encodeMetaQueries(name, queries),
    Buffer.from(name),
    dice.bytes(dice.below(40)),
  ])
  return O.encodeOption(option, payload)
}

function anyRequest(dice: Dice, mode: HeaderMode): Buffer {
  const type = dice.of([0, 0, 0, 1, 1, 3, 4, 5, 6, 7, 7, 8, 0xffff])
  const offset = dice.of([0, 1, 4096, SIZE - 1, SIZE, SIZE + 1, 2 ** 40, 2 ** 53, 2 ** 63])
  const length = dice.of([0, 1, 512, 4096, 40_000, SIZE, SIZE + 1, 2 ** 31, 2 ** 32 - 1])
  const flags = dice.below(3) === 0 ? dice.below(65536) : dice.of([0, 0, 1, 4, 8, 32, 33])
  const header = Buffer.alloc(requestHeaderBytes(mode))
  const halves = {
    offsetHi: Math.floor(offset / 2 ** 32),
    offsetLo: offset % 2 ** 32,
    cookieHi: 0,
    cookieLo: dice.below(1000),
  }
  putRequest(mode, header, 0, { ...emptyRequest(), type, flags, length, ...halves })
  const payload = type === C.NBD_CMD_WRITE && length <= 40_000 ? Buffer.alloc(length, 1) : Buffer.alloc(0)
  return Buffer.concat([header, payload])
}

/** Opens, says something, hears whatever comes for a moment, and goes in one of several ways. */
async function visit(path: string, dice: Dice): Promise<void> {
  await using client = await RawNbdClient.connect(path)
  // Node accepts one connection a turn of its loop, so visitors that never wait would only fill the backlog.
  if (dice.below(10) > 0) await client.read(18)
  const mode = dice.of(['simple', 'structured', 'extended'] as const)
  const parts: Buffer[] = [dice.below(20) === 0 ? dice.bytes(4) : Buffer.from([0, 0, 0, dice.of([1, 3, 3, 3])])]
  const kind = dice.below(3)
  if (kind === 0) parts.push(dice.bytes(dice.below(300)))
  if (kind === 1) for (let count = dice.below(12); count > 0; count--) parts.push(dice.mutated(anyOption(dice)))
  if (kind === 2) {
    if (mode === 'structured') parts.push(O.encodeOption(C.NBD_OPT_STRUCTURED_REPLY, Buffer.alloc(0)))
    if (mode === 'extended') parts.push(O.encodeOption(C.NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(0)))
    if (mode !== 'simple')
      parts.push(O.encodeOption(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', ['base:allocation'])))
    parts.push(O.encodeOption(C.NBD_OPT_GO, O.encodeGo('disk', [])))
    for (let count = dice.below(20); count > 0; count--) {
      const request = anyRequest(dice, mode)
      parts.push(dice.below(4) === 0 ? dice.mutated(request) : request)
    }
  }
  if (dice.below(4) === 0) client.socket.pause()
  const all = Buffer.concat(parts)
  for (let at = 0; at < all.length; ) {
    const length = dice.of([1, 7, 100, 5000, all.length])
    client.write(all.subarray(at, at + length))
    at += length
    if (length < 100 && dice.below(4) === 0) await new Promise(setImmediate)
  }
  if (dice.below(3) === 0) client.socket.end()
  for (let turns = dice.below(5); turns > 0; turns--) await new Promise(setImmediate)
}

for (const [kind, count] of [
  ['memory', 2500],
  ['slow', 1000],
] as const)
  test(`fuzz over a ${kind} device: nothing ends the server, leaks a connection, or disturbs a good client`, async t => {
    t.diagnostic(`seed ${seed} (LIFEBOAT_TEST_SEED), ${count} cases`)
    const memory = memoryDevice(patternBytes(SIZE))
    const device = kind === 'slow' ? slowDevice(memory, seededRandom(`fuzz ${seed}`)) : memory
    const good = patternBytes(SIZE, 4)
    const path = join(folder, `${kind}.sock`)
    const exports = [
      { name: 'disk', device, readOnly: false },
      { name: 'good', device: memoryDevice(good), readOnly: true },
    ]
    const log: string[] = []
    await using server = await serveNbd({
      exports,
      listen: { socket: path },
      clock: systemClock,
      log: line => log.push(line),
    })
    await using client = await RawNbdClient.go(path, 'good', 'structured')
    const before = process.memoryUsage().rss
    const cases = Array.from({ length: count }, (_, i) => i)
    await forEachLimited(cases, 16, async i => {
      await visit(path, new Dice(seed + i))
      if (i % 50 > 0) return
      client.request(C.NBD_CMD_READ, i, 5000)
      const reply = await client.reply()
      assert.ok(reply.payload.subarray(8).equals(good.subarray(i, i + 5000)), `case ${i}`)
    })
    while (server.connectionCount + server.halfOpenCount > 1) await new Promise(resolve => setTimeout(resolve, 5))
    assert.ok(process.memoryUsage().rss - before < 256 * MiB)
    assert.ok(
      !log.some(line => line.includes('internal error')),
      log.find(line => line.includes('internal error')),
    )
    for (const line of log) assert.match(line, /^[\x20-\x7e]*$/, 'log lines are printable')
  })
