/** Fills packs of one kind and uploads the full ones while the next fills (docs/repository-format.md, section 4). */

import { abortable } from '../core/abortable.ts'
import { messageOf } from '../core/errors.ts'
import type { PackId } from '../core/ids.ts'
import { limits, MiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { recordAadPrefix } from '../crypto/aad.ts'
import { slotKey } from '../crypto/derive.ts'
import { sealFooter } from '../crypto/footer.ts'
import { newPackId } from '../crypto/ids.ts'
import type { Pipeline } from '../native/pipeline.ts'
import { BufferPool } from './buffer-pool.ts'
import { packKey } from './object-keys.ts'
import { OpenPack, type PlacedRecord } from './open-pack.ts'
import {
  buildTrailer,
  checksumBytes,
  checksumsLength,
  checksumUnit,
  encodeRows,
  idPrefixBytes,
  type PackKind,
  recordOverhead,
} from './pack-codec.ts'
import type { WriteContext } from './write-context.ts'

/** A pack that has its name; it may still be on its way to the store. */
export interface ClosedPack {
  readonly id: PackId
  readonly count: number
  readonly ids: Uint8Array
  readonly lengths: Uint32Array
}

export interface PackWriterOptions {
  readonly kind: PackKind
  /** Buffers of about 16 MiB: one fills while the others are uploaded. */
  readonly buffers: number
  /** The largest content of one record. */
  readonly contentMax: number
  /** Told of each pack when it gets its name, before its bytes are sealed: the last moment to write into its body. */
  readonly onClose?: (pack: ClosedPack, body: Uint8Array) => void
}

/**
 * `reserve` gives a pack with room; the caller writes record plaintexts at its end and enters them; `close` names the
 * pack. Sealing and uploading go on behind; the first failure there is thrown by the next call. Ids and salts are drawn when
 * a pack is closed, so their order depends on the contents alone.
 */
export class PackWriter {
  readonly #context: WriteContext
  readonly #options: PackWriterOptions
  readonly #pool: BufferPool
  readonly #uploads = new Map<PackId, Promise<void>>()
  readonly #aborted = new AbortController()
  #open: OpenPack | undefined
  #failure: { error: unknown } | undefined
  #bytesWritten = 0
  #packsWritten = 0

  constructor(context: WriteContext, options: PackWriterOptions) {
    this.#context = context
    this.#options = options
    // Room past the target for one batch, so that a pack does not end in many small ones.
    const slack = Math.max(MiB / 2, options.contentMax + recordOverhead)
    this.#pool = new BufferPool(options.buffers, limits.packTargetBytes + slack)
  }

  /** Sizes of all objects closed so far, bytes. */
  get bytesWritten(): number {
    return this.#bytesWritten
  }

  get packsWritten(): number {
    return this.#packsWritten
  }

  get buffersMade(): number {
    return this.#pool.buffersMade
  }

  /** The pack that is being filled, if any. */
  get open(): OpenPack | undefined {
    return this.#open
  }

  /** A pack with room for at least one record of the largest size. Waits for a buffer while all are being uploaded. */
  async reserve(options: AbortOptions = {}): Promise<OpenPack> {
    this.#throwIfFailed()
    const full = this.#open
    if (full && (full.used >= limits.packTargetBytes || this.room(full) < 1)) this.close()
    this.#open ??= new OpenPack(await this.#pool.acquire(options))
    return this.#open
  }

  /** Records of the largest size that still fit. */
  room(pack: OpenPack): number {
    const { contentMax } = this.#options
    return pack.room(contentMax, contentMax + recordOverhead)
  }

  /** Appends one record stored as it is (codec 0). */
  async appendPlain(id: Uint8Array, content: Uint8Array, options: AbortOptions = {}): Promise<PlacedRecord> {
    const pack = await this.reserve(options)
    const at = pack.used
    pack.body[at] = 0
    pack.body[at + 1] = content.length >>> 16
    pack.body[at + 2] = content.length >>> 8
    pack.body[at + 3] = content.length
    pack.body.set(content, at + 4)
    return pack.add(id, content.length + recordOverhead, content.length)
  }

  /** Names the open pack and sends it off. Nothing waits here. */
  close(): void {
    const pack = this.#open
    if (!pack) return
    this.#open = undefined
    const { domain, random } = this.#context
    const { kind } = this.#options
    const idKey = kind === 'data' ? domain.chunkIdKey : domain.nodeIdKey
    const secret = kind === 'data' ? domain.dataKey : domain.metadataKey
    if (!idKey || !secret) throw new RangeError('a writer needs the data keys of its domain')
    const id = newPackId(random, domain.epoch, idKey, pack.ids)
    pack.place.id = id
    this.#options.onClose?.({ id, count: pack.count, ids: pack.ids, lengths: pack.lengths }, pack.body)
    const key = packKey(kind, domain.domain, id)
    const place = { repository: this.#context.keys.repository, objectKey: key }
    const footer = sealFooter(place, domain.metadataKey, footerRows(pack), random)
    this.#packsWritten++
    this.#bytesWritten += pack.used + footer.length + Math.ceil((pack.used + footer.length) / MiB) * 32 + 64
    const upload = this.#upload(pack, id, key, slotKey(secret, id), footer)
      .catch(error => this.#fail(error))
      .finally(() => {
        this.#uploads.delete(id)
        this.#pool.release(pack.body)
      })
    this.#uploads.set(id, upload)
  }

  /** Settles when a pack that is on its way is stored. Throws if any upload failed. */
  async whenStored(pack: PackId): Promise<void> {
    await this.#uploads.get(pack)
    this.#throwIfFailed()
  }

  /** Closes the open pack and waits until everything is stored. */
  async finish(options: AbortOptions = {}): Promise<void> {
    this.#throwIfFailed()
    this.close()
    await abortable(Promise.all(this.#uploads.values()), options)
    this.#throwIfFailed()
  }

  /** Gives up: aborts uploads and waits until none of them runs. */
  async abandon(reason: unknown): Promise<void> {
    this.#fail(reason)
    this.#open = undefined
    await Promise.all(this.#uploads.values())
  }

  async #upload(pack: OpenPack, id: PackId, objectKey: string, key: Uint8Array, footer: Uint8Array): Promise<void> {
    const { store, pipeline, keys, domain } = this.#context
    const { kind } = this.#options
    const body = pack.body.subarray(0, pack.used)
    const aadPrefix = recordAadPrefix({ repository: keys.repository, domain: domain.domain, kind, pack: id })
    await pipeline.sealChunks({ body, lengths: pack.lengths, firstSlot: 0, ids: pack.ids, key, aadPrefix })
    const checksums = await checksumsOf(pipeline, body, footer)
    this.#aborted.signal.throwIfAborted()
    const trailer = buildTrailer(id, kind, {
      rowCount: pack.count,
      rewritten: false,
      bodyLength: body.length,
      footerLength: footer.length,
      checksums,
    })
    await store.put(objectKey, [body, footer, checksums, trailer], { signal: this.#aborted.signal })
  }

  #fail(error: unknown): void {
    this.#failure ??= { error }
    this.#pool.fail(error)
    if (!this.#aborted.signal.aborted) this.#aborted.abort(error instanceof Error ? error : new Error(messageOf(error)))
  }

  #throwIfFailed(): void {
    if (this.#failure) throw this.#failure.error
  }
}

/** Like `encodeChecksums`, on libuv's pool: 16 MiB of SHA-256 would hold up everything else on this thread for 20 ms. */
async function checksumsOf(pipeline: Pipeline, body: Uint8Array, footer: Uint8Array): Promise<Uint8Array> {
  const total = body.length + footer.length
  const checksums = new Uint8Array(checksumsLength(total))
  const whole = body.length - (body.length % checksumUnit)
  checksums.set(await pipeline.digestUnits(body.subarray(0, whole), checksumUnit))
  for (let at = whole, unit = whole / checksumUnit; at < total; at += checksumUnit, unit++) {
    const inBody = body.subarray(at, at + checksumUnit)
    const isWhole = inBody.length === Math.min(checksumUnit, total - at)
    const from = Math.max(0, at - body.length)
    const piece = isWhole ? inBody : Buffer.concat([inBody, footer.subarray(from, from + checksumUnit - inBody.length)])
    checksums.set(new Uint8Array(await crypto.subtle.digest('SHA-256', piece)), unit * checksumBytes)
  }
  return checksums
}

function footerRows(pack: OpenPack): Uint8Array {
  const idPrefixes = new Uint8Array(pack.count * idPrefixBytes)
  for (let slot = 0; slot < pack.count; slot++)
    idPrefixes.set(pack.ids.subarray(slot * 32, slot * 32 + idPrefixBytes), slot * idPrefixBytes)
  return encodeRows({ count: pack.count, idPrefixes, lengths: pack.lengths })
}
