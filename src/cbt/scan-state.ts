/**
 * What a scan remembers of a disk: a digest of every block at the last backup, in a file.
 *
 *   "LBSCAN02" | length of the header (u32, big-endian) | header (JSON) | 16 bytes a block | SHA-256 of all before
 *
 * A whole block of zeros has 16 zeros instead of its digest, so that holes take no memory until they are read back.
 * The file is replaced as a whole. One that is absent, damaged or of another version is no state: the disk is read in full.
 */
import { createHash } from 'node:crypto'
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { hex, type PointId, pointId, unhex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'

export const SCAN_BLOCK = 64 * 1024
export const DIGEST_BYTES = 16
/** An XXH3 secret: digests cannot be forged by who writes the disk, because it is not known there. */
export const SECRET_BYTES = 192

export interface ScanState {
  /** The point whose contents the digests describe. */
  readonly point: PointId
  /** Of the disk, bytes. */
  readonly size: number
  readonly secret: Uint8Array
  readonly digests: Uint8Array
}

/** The same, read from its file as often as it is asked for. */
export interface KnownScan extends Omit<ScanState, 'digests'>, AsyncDisposable {
  /** In order, in pieces of whole digests, each valid until the next. */
  digests(): AsyncIterable<Uint8Array>
}

const MAGIC = Buffer.from('LBSCAN02')
const SUM_BYTES = 32
const HEADER_MAX = 4096
const PIECE = 1024 * 1024

export const blockCount = (size: number): number => Math.ceil(size / SCAN_BLOCK)

/**
 * Proves the file as a whole and keeps it open, without holding its digests in memory: 256 MiB for a disk of one TiB. What
 * replaces the file meanwhile is another file.
 */
export async function openScanState(file: string): Promise<KnownScan | undefined> {
  let handle: FileHandle
  try {
    handle = await open(file, 'r')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
  const known = await provenScan(handle).catch(async error => {
    await handle.close()
    throw error
  })
  if (!known) await handle.close()
  return known
}

async function provenScan(handle: FileHandle): Promise<KnownScan | undefined> {
  const end = (await handle.stat()).size - SUM_BYTES
  if (end < 12) return undefined
  const sum = createHash('sha256')
  for await (const piece of pieces(handle, 0, end)) sum.update(piece)
  const stated = new Uint8Array(SUM_BYTES)
  await handle.read(stated, 0, SUM_BYTES, end)
  if (!sum.digest().equals(stated)) return undefined
  const head = Buffer.alloc(12 + HEADER_MAX)
  await handle.read(head, 0, Math.min(head.length, end), 0)
  const headerBytes = head.readUInt32BE(8)
  if (!head.subarray(0, 8).equals(MAGIC) || headerBytes > HEADER_MAX || 12 + headerBytes > end) return undefined
  const header = parseHeader(head.toString('utf8', 12, 12 + headerBytes))
  if (!header || end - 12 - headerBytes !== blockCount(header.size) * DIGEST_BYTES) return undefined
  return {
    ...header,
    digests: () => pieces(handle, 12 + headerBytes, end),
    [Symbol.asyncDispose]: () => handle.close(),
  }
}

/** The bytes from `start` to `end`, each piece whole digests where `start` begins one; a piece is valid until the next one. */
async function* pieces(handle: FileHandle, start: number, end: number): AsyncIterable<Uint8Array> {
  const buffer = new Uint8Array(PIECE)
  for (let at = start; at < end; at += PIECE) {
    const piece = buffer.subarray(0, Math.min(PIECE, end - at))
    const { bytesRead } = await handle.read(piece, 0, piece.length, at)
    if (bytesRead < piece.length)
      throw new LifeboatError('internal', 'The digests of the last backup became shorter while they were read', {
        hint: 'Something else writes to the folder of --state-dir: let it leave that folder alone.',
      })
    yield piece
  }
}

function parseHeader(text: string): Pick<KnownScan, 'point' | 'size' | 'secret'> | undefined {
  try {
    const header: unknown = JSON.parse(text)
    if (typeof header !== 'object' || header === null) return undefined
    const { point, size, secret } = header as Record<string, unknown>
    if (typeof point !== 'string' || typeof size !== 'number' || typeof secret !== 'string') return undefined
    if (!Number.isSafeInteger(size) || size < 0 || size > limits.diskSizeMax) return undefined
    if (secret.length !== SECRET_BYTES * 2) return undefined
    return { point: pointId(point), size, secret: unhex(secret) }
  } catch {
    return undefined
  }
}

export async function writeScanState(file: string, state: ScanState): Promise<void> {
  const header = Buffer.from(JSON.stringify({ point: state.point, size: state.size, secret: hex(state.secret) }))
  const start = Buffer.alloc(12)
  MAGIC.copy(start)
  start.writeUInt32BE(header.length, 8)
  const parts = [start, header, state.digests]
  const sum = createHash('sha256')
  for (const part of parts) sum.update(part)

  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 })
  const draft = `${file}.${state.point}`
  try {
    await using handle = await open(draft, 'w', 0o600)
    for (const part of [...parts, sum.digest()]) await handle.writeFile(part)
    await handle.sync()
    await rename(draft, file)
  } catch (error) {
    await rm(draft, { force: true })
    throw error
  }
}
