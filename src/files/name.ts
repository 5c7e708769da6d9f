/**
 * Names of files are bytes; here they are strings: UTF-8 where it is UTF-8, and each other byte as the lone surrogate U+DC00 plus
 * the byte (U+DC80 to U+DCFF), as Python does it (PEP 383). Every name goes to a string and back unchanged, and two names are
 * the same string only if they are the same bytes.
 */
import { isUtf8 } from 'node:buffer'

/** Of Linux and its filesystems. */
export const NAME_BYTES_MAX = 255

const REPLACED = 0xdc00

export function decodeName(bytes: Uint8Array): string {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (isUtf8(buffer)) return buffer.toString('utf8')
  let text = ''
  for (let at = 0; at < buffer.length; ) {
    const length = sequenceLength(buffer, at)
    if (length === 0) text += String.fromCharCode(REPLACED + buffer[at]!)
    else text += buffer.toString('utf8', at, at + length)
    at += Math.max(1, length)
  }
  return text
}

export function encodeName(name: string): Buffer {
  if (!/[\udc80-\udcff]/.test(name) || name.isWellFormed()) return Buffer.from(name, 'utf8')
  const pieces: Buffer[] = []
  // By code points: the low half of a pair is not a byte.
  for (const character of name) {
    const code = character.codePointAt(0)!
    pieces.push(code >= 0xdc80 && code <= 0xdcff ? Buffer.of(code - REPLACED) : Buffer.from(character, 'utf8'))
  }
  return Buffer.concat(pieces)
}

/**
 * A name that a directory may have. Anything else in a guest's directory is an attack or damage, and is left out and counted.
 * Lone surrogates that no bytes decode to would be a second string for the bytes of another name, or for none.
 */
export const isName = (name: string): boolean => {
  if (name === '' || name === '.' || name === '..' || name.length > NAME_BYTES_MAX || /[/\0]/.test(name)) return false
  // No character takes more than three bytes: most names are known to fit without being encoded.
  if (name.length * 3 <= NAME_BYTES_MAX && name.isWellFormed()) return true
  const bytes = encodeName(name)
  return bytes.length <= NAME_BYTES_MAX && (name.isWellFormed() || decodeName(bytes) === name)
}

/** Of the valid UTF-8 sequence that starts there; 0 if none does. */
function sequenceLength(bytes: Buffer, at: number): number {
  for (let length = 1; length <= 4 && at + length <= bytes.length; length++)
    if (isUtf8(bytes.subarray(at, at + length))) return length
  return 0
}
