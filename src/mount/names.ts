/** What things are called in the mount: every name is one that a shell, a terminal and a folder can take, and no two become the same. */
import { createHash } from 'node:crypto'
import { NAME_BYTES_MAX } from '../files/name.ts'

/** Control and format characters (which turn a line around, or are not seen), line ends, slashes, the escape itself; lone halves of pairs. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}/%\\]/gu

/**
 * Bytes that are not safe as %XX. Two texts have one name only if they are the same text; one that is too long ends with letters of
 * its hash. `reserve`: bytes that the caller adds.
 */
export function safeName(text: string, { reserve = 0 }: { readonly reserve?: number } = {}): string {
  const plain = text.replace(UNSAFE, escaped)
  // Neither hidden, nor '.' or '..', nor taken for an option, nor empty.
  const name = plain === '' ? '%' : /^[.-]/.test(plain) ? escaped(plain[0]!) + plain.slice(1) : plain
  const room = NAME_BYTES_MAX - reserve
  if (Buffer.byteLength(name) <= room) return name
  // '%~' is no escape, so that no short name looks like this.
  const ending = `%~${createHash('sha256').update(text).digest('hex').slice(0, 16)}`
  return cut(name, room - ending.length) + ending
}

/** As `lifeboat points` prints it and `VM@TIME` takes it; whole seconds, in UTC. Names of this form sort by time. */
export const timeName = (time: Date): string => time.toISOString().replace(/\.\d+Z$/, 'Z')

export const dayName = (time: Date): string => time.toISOString().slice(0, 10)

/** Gives each name that was given before another ending. */
export function distinctNames(): (name: string) => string {
  const given = new Set<string>()
  return name => {
    let own = name
    for (let n = 2; given.has(own); n++) own = `${cut(name, NAME_BYTES_MAX - 8)}~${n}`
    given.add(own)
    return own
  }
}

function escaped(character: string): string {
  const code = character.codePointAt(0)!
  // A half of a pair is no character and has no bytes.
  if (code >= 0xd800 && code <= 0xdfff) return `%u${code.toString(16).toUpperCase()}`
  return [...Buffer.from(character)].map(byte => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`).join('')
}

/** Whole characters of at most so many bytes. */
function cut(name: string, bytes: number): string {
  if (Buffer.byteLength(name) <= bytes) return name
  let kept = ''
  let length = 0
  for (const character of name) {
    length += Buffer.byteLength(character)
    if (length > bytes) break
    kept += character
  }
  return kept
}
