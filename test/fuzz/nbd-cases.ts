/** Inputs for the NBD server that are wrong in some way: made from a seed, mutated from the kept ones, and the kept ones themselves. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { MiB } from '../../src/core/limits.ts'
import * as C from '../../src/nbd/constants.ts'
import * as O from '../../src/nbd/option-codec.ts'
import { emptyRequest, type HeaderMode, putRequest, requestHeaderBytes } from '../../src/nbd/wire.ts'
import type { RawNbdClient } from '../doubles/raw-nbd-client.ts'

export const SIZE = MiB

const folder = join(import.meta.dirname, 'corpus')

/** What clients say behind the greeting, a file each: found by fuzzing, or of a kind that random bytes would not find. */
export const corpus: readonly Buffer[] = readdirSync(folder)
  .filter(name => name.endsWith('.bin'))
  .sort()
  .map(name => readFileSync(join(folder, name)))

/** An input that did harm stays for good. */
export const keep = (name: string, input: Buffer): void => writeFileSync(join(folder, `${name}.bin`), input)

/** Random choices of one case, repeatable from the printed seed and the case's number. */
export class Dice {
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

/** All that one client says behind the greeting. */
export function anyInput(dice: Dice): Buffer {
  if (corpus.length > 0 && dice.below(8) === 0) return dice.mutated(dice.of(corpus))
  const mode = dice.of(['simple', 'structured', 'extended'] as const)
  const parts: Buffer[] = [dice.below(20) === 0 ? dice.bytes(4) : Buffer.from([0, 0, 0, dice.of([1, 3, 3, 3])])]
  const kind = dice.below(3)
  if (kind === 0) parts.push(dice.bytes(dice.below(300)))
  if (kind === 1) for (let count = dice.below(12); count > 0; count--) parts.push(dice.mutated(anyOption(dice)))
  if (kind === 2) {
    parts.push(beginning(mode))
    for (let count = dice.below(20); count > 0; count--) {
      const request = anyRequest(dice, mode)
      parts.push(dice.below(4) === 0 ? dice.mutated(request) : request)
    }
  }
  return Buffer.concat(parts)
}

function beginning(mode: HeaderMode): Buffer {
  const parts: Buffer[] = []
  if (mode === 'structured') parts.push(O.encodeOption(C.NBD_OPT_STRUCTURED_REPLY, Buffer.alloc(0)))
  if (mode === 'extended') parts.push(O.encodeOption(C.NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(0)))
  if (mode !== 'simple')
    parts.push(O.encodeOption(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', ['base:allocation'])))
  parts.push(O.encodeOption(C.NBD_OPT_GO, O.encodeGo('disk', [])))
  return Buffer.concat(parts)
}

/** Says `input` in pieces, hears whatever comes for a moment, and goes in one of several ways. */
export async function say(client: RawNbdClient, input: Buffer, dice: Dice): Promise<void> {
  if (dice.below(4) === 0) client.socket.pause()
  for (let at = 0; at < input.length; ) {
    const length = dice.of([1, 7, 100, 5000, input.length])
    client.write(input.subarray(at, at + length))
    at += length
    if (length < 100 && dice.below(4) === 0) await new Promise(setImmediate)
  }
  if (dice.below(3) === 0) client.socket.end()
  for (let turns = dice.below(5); turns > 0; turns--) await new Promise(setImmediate)
}
