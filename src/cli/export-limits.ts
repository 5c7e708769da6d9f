/** Bounds of the NBD server that an operator sets: flags of `export`, and words in the state of a session, which keeps them. */
import type { Command } from 'commander'
import { LifeboatError } from '../core/errors.ts'
import { GiB, KiB, limits, MiB } from '../core/limits.ts'
import type { NbdServerLimits } from '../nbd/server.ts'
import { formatBytes, parseBytes, parseDurationMs } from './units.ts'

export interface LimitFlags {
  readonly maxConnections?: string
  readonly maxRequests?: string
  readonly maxInFlight?: string
  readonly maxOptions?: string
  readonly handshakeTimeout?: string
  readonly idleTimeout?: string
}

/** By the flags' names, without the dashes. */
export type LimitWords = Readonly<Record<string, string>>

interface Bound {
  readonly key: keyof LimitFlags
  readonly name: string
  readonly value: string
  readonly description: string
  read(text: string): Partial<NbdServerLimits>
}

const BOUNDS: readonly Bound[] = [
  {
    key: 'maxConnections',
    name: 'max-connections',
    value: '<count>',
    description: `clients that are served at once (${limits.nbdConnectionsMax}); more are refused`,
    read: text => ({ connections: count('max-connections', text, 1) }),
  },
  {
    key: 'maxRequests',
    name: 'max-requests',
    value: '<count>',
    description: `of one client under way at once (${limits.nbdRequestsInFlight}); more wait`,
    read: text => ({ requestsInFlight: count('max-requests', text, 1) }),
  },
  {
    key: 'maxInFlight',
    name: 'max-in-flight',
    value: '<size>',
    description: `memory for what all clients read and write at this moment (${limits.nbdBytesInFlight / MiB}MiB), two thirds of it for one client at most`,
    read: text => ({ bytes: bytesInFlight('max-in-flight', text) }),
  },
  {
    key: 'maxOptions',
    name: 'max-options',
    value: '<count>',
    description: `that a client may send before it has chosen a disk (${limits.nbdOptionsMax})`,
    read: text => ({ options: count('max-options', text, OPTIONS_OF_A_CLIENT) }),
  },
  {
    key: 'handshakeTimeout',
    name: 'handshake-timeout',
    value: '<duration>',
    description: `until a client has chosen a disk (${limits.nbdHandshakeMs / 1000}s), or it is dropped`,
    read: text => ({ handshakeMs: duration('handshake-timeout', text) }),
  },
  {
    key: 'idleTimeout',
    name: 'idle-timeout',
    value: '<duration>',
    description:
      'drop a client that asks for nothing for so long; 0 for never, which is what holds where nothing is said',
    read: text => ({ idleMs: isNothing(text) ? Number.POSITIVE_INFINITY : duration('idle-timeout', text) }),
  },
]

/** What QEMU and libnbd send at most, TLS, contexts and a listing included. */
const OPTIONS_OF_A_CLIENT = 8
const COUNT_MAX = 65_535
const DURATION_MIN_MS = 100
const DURATION_MAX_MS = 7 * 24 * 3_600_000
/** One request above the bound may always be under way, so that a small bound refuses nobody. */
const IN_FLIGHT_MIN = 4 * limits.nbdBytesShare
const IN_FLIGHT_MAX = 64 * GiB

export const limitOptions = (command: Command): Command =>
  BOUNDS.reduce((sofar, { name, value, description }) => sofar.option(`--${name} ${value}`, description), command)

export const limitWordsOf = (flags: LimitFlags): LimitWords =>
  Object.fromEntries(BOUNDS.flatMap(({ key, name }) => (flags[key] === undefined ? [] : [[name, flags[key]]])))

/** Other words are other people's. Throws 'usage' for one that is no bound. */
export const serverLimits = (words: LimitWords): Partial<NbdServerLimits> =>
  Object.assign({}, ...BOUNDS.flatMap(({ name, read }) => (words[name] === undefined ? [] : [read(words[name])])))

const isNothing = (text: string): boolean => /^0+\s*(ms|s|m|h|d)?$/i.test(text.trim())

function count(name: string, text: string, atLeast: number): number {
  const value = /^\d{1,6}$/.test(text.trim()) ? Number(text) : Number.NaN
  if (value >= atLeast && value <= COUNT_MAX) return value
  throw new LifeboatError('usage', `--${name} ${text} is no number from ${atLeast} to ${COUNT_MAX}`, {
    hint: `for example --${name} 64`,
  })
}

function duration(name: string, text: string): number {
  const ms = parseDurationMs(text, `--${name}`)
  if (ms >= DURATION_MIN_MS && ms <= DURATION_MAX_MS) return ms
  throw new LifeboatError('usage', `--${name} ${text} is not between 100ms and 7d`, {
    hint: `for example --${name} 30s`,
  })
}

function bytesInFlight(name: string, text: string): NbdServerLimits['bytes'] {
  const total = parseBytes(text, `--${name}`)
  if (total < IN_FLIGHT_MIN || total > IN_FLIGHT_MAX)
    throw new LifeboatError(
      'usage',
      `--${name} ${text} is not between ${formatBytes(IN_FLIGHT_MIN)} and ${formatBytes(IN_FLIGHT_MAX)}`,
      {
        hint: `for example --${name} 48MiB`,
      },
    )
  const perConnection = Math.floor((total * 2) / 3 / KiB) * KiB
  return { total, perConnection, share: limits.nbdBytesShare }
}
