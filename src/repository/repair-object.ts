/**
 * A repair object: `<damaged pack>.<run>`, whose rows name other packs' records of the same contents
 * (docs/repository-format.md, section 4). Each record is authenticated before it is copied.
 */

import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { hex, type PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { packKey } from './object-keys.ts'
import { idPrefixBytes, type PackKind } from './pack-codec.ts'
import { epochOf, RecordKeys } from './record-keys.ts'
import { RecordOpener } from './record-opener.ts'
import { planRuns } from './record-runs.ts'
import type { ChunkRef } from './repository.ts'
import { encodeRewrittenObject } from './rewritten-object.ts'
import type { WriteContext } from './write-context.ts'

export interface Repair {
  readonly kind: PackKind
  /** The damaged one. */
  readonly pack: PackId
  /** Where its contents lie whole. */
  readonly refs: readonly ChunkRef[]
  readonly throwIfLost: () => void
  /** Whether the point still counts from which the records come, asked of the store. */
  readonly stands: (options: AbortOptions) => Promise<boolean>
}

interface Copied {
  readonly ref: ChunkRef
  readonly stored: Uint8Array
}

/**
 * Gives how many records were copied: those that do not authenticate where they were said to lie are left out.
 *
 * A copied node points to packs that the point keeps. A collection that marked before the copy was put has not seen it, and
 * removes them when the point was forgotten meanwhile: so the point is asked for after the copy is there, and a copy that may
 * lead to nothing is taken back. One that comes later belongs to a collection that marks through the copy.
 */
export async function storeRepair(context: WriteContext, repair: Repair, options: AbortOptions): Promise<number> {
  const opener = new RecordOpener({ ...context, recordKeys: new RecordKeys(context.keyring) })
  let held: Copied[] = []
  let bytes = 0
  let copied = 0
  const flush = async () => {
    repair.throwIfLost()
    if (held.length > 0 && (await isPut())) copied += held.length
    held = []
    bytes = 0
  }
  const isPut = async (): Promise<boolean> => {
    const key = await putRepair(context, repair, held, options)
    if (repair.kind === 'data') return true
    let stands = false
    try {
      stands = await repair.stands(options)
    } finally {
      if (!stands) await context.store.delete([key], options)
    }
    return stands
  }
  for (const [pack, refs] of Map.groupBy(repair.refs, ref => ref.pack)) {
    const object = packKey(repair.kind, context.domain.domain, pack)
    for (const run of planRuns(refs, runBounds(repair.kind, context.chunkSize))) {
      for (const record of await authenticated(context, opener, repair.kind, object, run, options)) {
        held.push(record)
        bytes += record.stored.length
      }
      if (bytes >= limits.packTargetBytes) await flush()
    }
  }
  await flush()
  return copied
}

/** Their contents are decoded to be checked. */
const runBounds = (kind: PackKind, chunkSize: number) => ({
  gapBytes: limits.coalesceGapBytes,
  runBytes: limits.getBytesMax,
  runRecords: Math.max(1, Math.floor(limits.getPlainBytesMax / (kind === 'data' ? chunkSize : limits.nodeBytesMax))),
})

async function authenticated(
  { store, domain, chunkSize }: WriteContext,
  opener: RecordOpener,
  kind: PackKind,
  object: string,
  run: { readonly offset: number; readonly length: number; readonly records: readonly ChunkRef[] },
  options: AbortOptions,
): Promise<Copied[]> {
  let bytes: Uint8Array
  try {
    bytes = await store.get(object, { offset: run.offset, length: run.length }, options)
  } catch (error) {
    if (isLifeboatError(error, 'store-not-found')) return []
    throw error
  }
  const sealed = run.records.map(({ pack, slot, id, offset, length }) => {
    const stored = bytes.subarray(offset - run.offset, offset - run.offset + length)
    return { object, pack, slot, id, stored }
  })
  const request = { kind, domain: domain.domain, chunkSize, checkIds: 'all' } as const
  const opened = await opener.open(request, sealed, options)
  return run.records.flatMap((ref, n) =>
    opened[n] instanceof LifeboatError ? [] : [{ ref, stored: sealed[n]!.stored }],
  )
}

async function putRepair(
  { store, keys, keyring, domain: { domain }, random }: WriteContext,
  { kind, pack }: Repair,
  records: readonly Copied[],
  options: AbortOptions,
): Promise<string> {
  const objectKey = packKey(kind, domain, pack, hex(random(8)))
  const { metadataKey } = await keyring.domainKeys(domain, epochOf(pack), options)
  const copies = records.map(({ ref, stored }) => ({
    idPrefix: ref.id.subarray(0, idPrefixBytes),
    stored,
    origin: ref.pack,
    slot: ref.slot,
  }))
  const place = { repository: keys.repository, objectKey, kind, pack, metadataKey, random }
  await store.put(objectKey, encodeRewrittenObject(place, copies), options)
  return objectKey
}
