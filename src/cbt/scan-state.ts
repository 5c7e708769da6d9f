/**
 * What a scan remembers of a disk: a digest of every block at the last backup, in a file.
 *
 *   "LBSCAN02" | length of the header (u32, big-endian) | header (JSON) | 16 bytes a block | SHA-256 of all before
 *
 * A whole block of zeros has 16 zeros instead of its digest, so that holes take no memory until they are read back.
 * The file is replaced as a whole. One that is absent, damaged or of another version is no state: the disk is read in full.
 */
import { createHash } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import path from 'node:path'
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

const MAGIC = Buffer.from('LBSCAN02')
const SUM_BYTES = 32
const HEADER_MAX = 4096

export const blockCount = (size: number): number => Math.ceil(size / SCAN_BLOCK)

export async function readScanState(file: string): Promise<ScanState | undefined> {
  let bytes: Buffer
  try {
    bytes = await readFile(file)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
  return parseScanState(bytes)
}

export function parseScanState(bytes: Buffer): ScanState | undefined {
  const body = bytes.subarray(0, Math.max(0, bytes.length - SUM_BYTES))
  if (body.length < 12 || !body.subarray(0, 8).equals(MAGIC)) return undefined
  if (!createHash('sha256').update(body).digest().equals(bytes.subarray(body.length))) return undefined
  const headerBytes = body.readUInt32BE(8)
  if (headerBytes > HEADER_MAX || 12 + headerBytes > body.length) return undefined
  const digests = body.subarray(12 + headerBytes)
  try {
    const header: unknown = JSON.parse(body.toString('utf8', 12, 12 + headerBytes))
    if (typeof header !== 'object' || header === null) return undefined
    const { point, size, secret } = header as Record<string, unknown>
    if (typeof point !== 'string' || typeof size !== 'number' || typeof secret !== 'string') return undefined
    if (!Number.isSafeInteger(size) || size < 0 || size > limits.diskSizeMax) return undefined
    if (secret.length !== SECRET_BYTES * 2 || digests.length !== blockCount(size) * DIGEST_BYTES) return undefined
    return { point: pointId(point), size, secret: unhex(secret), digests }
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
