/** Makes `<pack>.<run>` from a stored pack as a compaction would: chosen records copied, each naming its origin. */
import { type PackId, unhex } from '../../src/core/ids.ts'
import type { Random } from '../../src/core/random.ts'
import { openFooter, sealFooter } from '../../src/crypto/footer.ts'
import { packKey, parsePackKey } from '../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import {
  buildTrailer,
  encodeChecksums,
  encodeRows,
  footerRange,
  idPrefixBytes,
  parseRows,
  parseTrailer,
  trailerBytes,
} from '../../src/repository/pack-codec.ts'
import type { MemoryStore } from '../../src/storage/memory.ts'
import { bytesOf } from './repository-fixture.ts'

/** Gives the key of the new object; the original stays. `slots`: all by default. */
export async function rewritePack(
  { store, repository, random }: { store: MemoryStore; repository: OpenedRepository; random: Random },
  original: string,
  run: string,
  slots?: readonly number[],
): Promise<string> {
  const place = parsePackKey(original)
  if (!place) throw new Error(`${original} is no pack`)
  const { kind, domain, pack } = place
  const bytes = bytesOf(store, original)
  const trailer = parseTrailer(bytes.subarray(-trailerBytes), bytes.length, original)
  const { metadataKey } = await repository.reading.keyring.domainKeys(domain, trailer.epoch)
  const { offset, length } = footerRange(trailer)
  const id = repository.id
  const sealed = bytes.subarray(offset, offset + length)
  const rows = parseRows(openFooter({ repository: id, objectKey: original }, metadataKey, sealed), trailer, original)
  const kept = slots ?? Array.from({ length: rows.count }, (_, slot) => slot)

  const body = Buffer.concat(kept.map(slot => record(bytes, rows, slot)))
  const objectKey = packKey(kind, domain, pack, run)
  const copied = {
    count: kept.length,
    idPrefixes: Buffer.concat(
      kept.map(slot => rows.idPrefixes.subarray(slot * idPrefixBytes, (slot + 1) * idPrefixBytes)),
    ),
    lengths: Uint32Array.from(kept, slot => rows.lengths[slot]!),
    origins: origins(pack, kept),
  }
  const footer = sealFooter({ repository: id, objectKey }, metadataKey, encodeRows(copied), random)
  const checksums = encodeChecksums([body, footer])
  const end = buildTrailer(pack, kind, {
    rowCount: kept.length,
    rewritten: true,
    bodyLength: body.length,
    footerLength: footer.length,
    checksums,
  })
  await store.put(objectKey, [body, footer, checksums, end])
  return objectKey
}

const record = (bytes: Uint8Array, rows: { offsets: Uint32Array; lengths: Uint32Array }, slot: number): Uint8Array =>
  bytes.subarray(rows.offsets[slot], rows.offsets[slot]! + rows.lengths[slot]!)

const origins = (pack: PackId, slots: readonly number[]) => ({
  packs: Buffer.concat(slots.map(() => unhex(pack))),
  slots: Uint16Array.from(slots),
})
