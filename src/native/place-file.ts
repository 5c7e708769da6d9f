/** A file with its contents and all its attributes, made apart and then given its name, in one call off the main thread. */
import { getSystemErrorName } from 'node:util'
import { loadAddon } from './native.ts'

export interface Dress {
  readonly uid: number
  readonly gid: number
  /** Of the owner's file: set-user-id is among it only where it may be. */
  readonly mode: number
  readonly accessedNs: bigint
  readonly modifiedNs: bigint
  readonly xattrs: ReadonlyMap<Uint8Array, Uint8Array>
}

/** What did not work: nothing after it was tried, and the part may be there. */
export interface NotPlaced {
  readonly step: 'contents' | 'attributes' | 'name'
  /** As those of fs are. */
  readonly error: Error
}

/** Where the file is made: anew with these bytes, or it is open and has its contents. */
export type Part = { readonly path: Uint8Array } & (
  | { readonly contents: Uint8Array }
  | { readonly file: { readonly fd: number } }
)

const STEPS = [undefined, 'contents', 'attributes', 'name'] as const
const NS = 1_000_000_000n
const NOTHING = new Uint8Array()

/** Follows no link at the end of either path. Without `replaces` it fails where `path` is taken. */
export async function placeFile(
  part: Part,
  dress: Dress,
  path: Uint8Array,
  { replaces }: { readonly replaces: boolean },
): Promise<NotPlaced | undefined> {
  const contents = 'contents' in part ? part.contents : NOTHING
  if ('file' in part && part.file.fd < 0) throw new RangeError('the part is closed')
  const descriptor = 'file' in part ? part.file.fd + 1 : 0
  const outcome = await loadAddon().placeFile(
    part.path,
    contents,
    descriptor,
    dressBytes(dress, replaces),
    packed(dress.xattrs),
    path,
  )
  const step = STEPS[outcome >> 12]
  if (step === undefined) return undefined
  const code = getSystemErrorName(-(outcome & 4095))
  return { step, error: Object.assign(new Error(`the file's ${step}: ${code}`), { code }) }
}

function dressBytes({ uid, gid, mode, accessedNs, modifiedNs }: Dress, replaces: boolean): Uint8Array {
  const bytes = Buffer.allocUnsafe(48)
  for (const [index, word] of [uid, gid, mode, replaces ? 1 : 0].entries()) bytes.writeUInt32LE(word, 4 * index)
  writeTime(bytes, 16, accessedNs)
  writeTime(bytes, 32, modifiedNs)
  return bytes
}

/** Seconds i64, nanoseconds i64: the latter never below 0. */
export function writeTime(bytes: Buffer, at: number, time: bigint): void {
  const nanoseconds = ((time % NS) + NS) % NS
  bytes.writeBigInt64LE((time - nanoseconds) / NS, at)
  bytes.writeBigInt64LE(nanoseconds, at + 8)
}

function packed(xattrs: ReadonlyMap<Uint8Array, Uint8Array>): Uint8Array {
  if (xattrs.size === 0) return NOTHING
  const pieces: Uint8Array[] = []
  for (const bytes of [...xattrs].flat()) {
    const length = Buffer.allocUnsafe(4)
    length.writeUInt32LE(bytes.length)
    pieces.push(length, bytes)
  }
  return Buffer.concat(pieces)
}
