/** An object `<pack>.<run>` from records that were copied as they are sealed (docs/repository-format.md, section 4). */
import { type PackId, type RepositoryId, unhex } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import { sealFooter } from '../crypto/footer.ts'
import { buildTrailer, encodeChecksums, encodeRows, type PackKind } from './pack-codec.ts'

export interface CopiedRecord {
  /** 20 bytes. */
  readonly idPrefix: Uint8Array
  readonly stored: Uint8Array
  /** What it was sealed for: mostly the pack of the object's name, another where a repair has put it there. */
  readonly origin: PackId
  readonly slot: number
}

export interface RewrittenObjectPlace {
  readonly repository: RepositoryId
  readonly objectKey: string
  readonly kind: PackKind
  readonly pack: PackId
  /** Of the epoch that the pack's name tells: readers open the footer with it. */
  readonly metadataKey: Uint8Array
  readonly random: Random
}

/** The parts of the object, in order. The records' bytes are shared with it, not copied. */
export function encodeRewrittenObject(
  { repository, objectKey, kind, pack, metadataKey, random }: RewrittenObjectPlace,
  records: readonly CopiedRecord[],
): readonly Uint8Array[] {
  const rows = encodeRows({
    count: records.length,
    idPrefixes: Buffer.concat(records.map(({ idPrefix }) => idPrefix)),
    lengths: Uint32Array.from(records, ({ stored }) => stored.length),
    origins: {
      packs: Buffer.concat(records.map(({ origin }) => unhex(origin))),
      slots: Uint16Array.from(records, ({ slot }) => slot),
    },
  })
  const footer = sealFooter({ repository, objectKey }, metadataKey, rows, random)
  const body = records.map(({ stored }) => stored)
  const checksums = encodeChecksums([...body, footer])
  const trailer = buildTrailer(pack, kind, {
    rowCount: records.length,
    rewritten: true,
    bodyLength: body.reduce((sum, { length }) => sum + length, 0),
    footerLength: footer.length,
    checksums,
  })
  return [...body, footer, checksums, trailer]
}
