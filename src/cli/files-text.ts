/** Files as people see them: names that cannot break a terminal, modes, times. */
import type { Attributes, FileKind } from '../files/file-tree.ts'
import { encodeName } from '../files/name.ts'

/** As `ls -b`: control characters, backslashes and bytes that are no text are written as octal numbers; the rest as it is. */
export function shownName(name: string): string {
  let text = ''
  for (const character of name) text += isPlain(character) ? character : escaped(character)
  return text
}

/** Marks that turn the direction of writing, and invisible ones, would make one name look like another. */
const isPlain = (character: string): boolean =>
  character !== '\\' && !/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(character)

const SHORT: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\t': '\\t', '\r': '\\r' }

const escaped = (character: string): string =>
  SHORT[character] ?? [...encodeName(character)].map(byte => `\\${byte.toString(8).padStart(3, '0')}`).join('')

const LETTER: Readonly<Record<FileKind, string>> = {
  file: '-',
  directory: 'd',
  symlink: 'l',
  fifo: 'p',
  socket: 's',
  'character-device': 'c',
  'block-device': 'b',
}

/** 'drwxr-sr-t', as ls writes it. */
export function modeText({ kind, permissions }: Pick<Attributes, 'kind' | 'permissions'>): string {
  const special = [0o4000, 0o2000, 0o1000]
  const triples = [6, 3, 0].map((shift, at) => {
    const bits = (permissions >> shift) & 7
    const isSpecial = (permissions & special[at]!) !== 0
    const executes = (bits & 1) !== 0
    const [set, unset] = at === 2 ? ['t', 'T'] : ['s', 'S']
    const last = isSpecial ? (executes ? set : unset) : executes ? 'x' : '-'
    return `${bits & 4 ? 'r' : '-'}${bits & 2 ? 'w' : '-'}${last}`
  })
  return LETTER[kind] + triples.join('')
}

export const octalMode = (permissions: number): string => permissions.toString(8).padStart(4, '0')

/** ISO, in UTC, with nanoseconds: '2026-11-21T10:00:00.123456789Z'. Beyond the years of a Date the nearest that it can tell. */
export function timeText(ns: bigint): string {
  const perSecond = 1_000_000_000n
  const fraction = ((ns % perSecond) + perSecond) % perSecond
  const seconds = (ns - fraction) / perSecond
  const date = new Date(Number(seconds) * 1000)
  if (Number.isNaN(date.getTime())) return new Date(seconds < 0n ? -DATE_MAX : DATE_MAX).toISOString()
  return date.toISOString().replace(/\.\d+Z$/, `.${String(fraction).padStart(9, '0')}Z`)
}

const DATE_MAX = 8.64e15
