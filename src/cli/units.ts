/** Sizes, rates and durations as people write and read them. */
import { LifeboatError } from '../core/errors.ts'

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const

/** 1536 -> '1.5 KiB'. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`
}

export function formatSeconds(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(1)} s`
  const minutes = Math.floor(seconds / 60)
  return minutes < 60
    ? `${minutes} min ${Math.round(seconds % 60)} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** '64KiB', '2G', '512M', '1000' -> bytes. K, M, G and T are powers of 1024, with or without 'iB'. */
export function parseBytes(text: string, what: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?(?:\/s)?$/i.exec(text.trim())
  if (!match)
    throw new LifeboatError('usage', `${what}: '${text}' is not a size`, { hint: 'write 64KiB, 512M or 2GiB' })
  const power = ' KMGTP'.indexOf((match[2] || ' ').toUpperCase())
  const bytes = Math.round(Number(match[1]) * 1024 ** power)
  if (!Number.isSafeInteger(bytes))
    throw new LifeboatError('usage', `${what}: '${text}' is too large`, { hint: 'write 64KiB, 512M or 2GiB' })
  return bytes
}

/** Bytes a second, of a limit that is left out where there is to be none. */
export function parseRate(text: string, what: string): number {
  const rate = parseBytes(text, what)
  if (rate >= 1) return rate
  throw new LifeboatError('usage', `${what} ${text} would never end`, {
    hint: 'write the bytes a second, for example 50MiB; leave it out for no limit',
  })
}

/** '30s', '10m', '24h', '7d', '500ms' -> milliseconds. */
export function parseDurationMs(text: string, what: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?$/i.exec(text.trim())
  if (!match)
    throw new LifeboatError('usage', `${what}: '${text}' is not a duration`, { hint: 'write 30s, 10m, 24h or 7d' })
  const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
  return Number(match[1]) * (units[(match[2] ?? 's').toLowerCase()] ?? 1000)
}
