/** The file that says which parts of a hydrated session's disks are on this host, and of which point (docs/session-state.md). Pure. */
import { sum64 } from '../block/overlay-format.ts'
import { LifeboatError } from '../core/errors.ts'
import { encodeManifest, parseManifest } from '../repository/manifest-codec.ts'
import type { Manifest } from '../repository/repository.ts'

const VERSION = 1
const MAGIC = Buffer.from('LBHYDRT1')
const SUM_BYTES = 8
const HEAD_BYTES = MAGIC.length + 4

export interface MarkedDisk {
  readonly name: string
  readonly size: number
  readonly chunkSize: number
  /** One for each page of its table; 0 where the page is not whole. */
  readonly sums: BigUint64Array
}

export interface HydrationMark {
  /** The point's key in the store. */
  readonly key: string
  readonly manifest: Manifest
  readonly repository: { readonly id: string; readonly chunkSize: number; readonly encryption: string }
  readonly disks: readonly MarkedDisk[]
}

export const isWhole = ({ disks }: HydrationMark): boolean => disks.every(({ sums }) => !sums.includes(0n))

/** magic | bytes of the header u32 | header | manifest | sums u64[] of each disk | XXH3-64 of all before. */
export function encodeMark({ key, manifest, repository, disks }: HydrationMark): Buffer {
  const manifestBytes = encodeManifest(manifest)
  const header = Buffer.from(
    JSON.stringify({
      version: VERSION,
      key,
      repository,
      manifestBytes: manifestBytes.length,
      disks: disks.map(({ sums, ...disk }) => ({ ...disk, pages: sums.length })),
    }),
  )
  const head = Buffer.alloc(HEAD_BYTES)
  MAGIC.copy(head)
  head.writeUInt32LE(header.length, MAGIC.length)
  const sums = disks.map(({ sums }) => Buffer.from(sums.buffer, sums.byteOffset, sums.byteLength))
  const body = Buffer.concat([head, header, manifestBytes, ...sums])
  return Buffer.concat([body, sum64(body)])
}

/** Throws 'session-newer'. Undefined where the bytes are no mark: then nothing is known to be there. */
export function parseMark(bytes: Buffer): HydrationMark | undefined {
  const end = bytes.length - SUM_BYTES
  if (end < HEAD_BYTES || bytes.compare(MAGIC, 0, MAGIC.length, 0, MAGIC.length) !== 0) return undefined
  if (sum64(bytes.subarray(0, end)).compare(bytes, end) !== 0) return undefined
  const headerEnd = HEAD_BYTES + bytes.readUInt32LE(MAGIC.length)
  // Sealed by its sum: what it says was written by a Lifeboat.
  const header = JSON.parse(bytes.toString('utf8', HEAD_BYTES, headerEnd)) as Header
  if (header.version > VERSION)
    throw new LifeboatError('session-newer', `the hydrated disks have format ${header.version}`, {
      hint: 'A newer Lifeboat has written them: go on with the session with that one.',
    })
  let at = headerEnd + header.manifestBytes
  const manifest = parseManifest(Uint8Array.from(bytes.subarray(headerEnd, at)), header.key)
  const disks = header.disks.map(({ pages, ...disk }) => {
    const sums = new BigUint64Array(pages)
    bytes.copy(Buffer.from(sums.buffer), 0, at, at + pages * SUM_BYTES)
    at += pages * SUM_BYTES
    return { ...disk, sums }
  })
  return { key: header.key, manifest, repository: header.repository, disks }
}

interface Header {
  readonly version: number
  readonly key: string
  readonly repository: HydrationMark['repository']
  readonly manifestBytes: number
  readonly disks: readonly {
    readonly name: string
    readonly size: number
    readonly chunkSize: number
    readonly pages: number
  }[]
}
