/** Content ids and pack ids (docs/repository-format.md, sections 4 and 5): keyed, so that they tell nothing to those without the key. */
import { createHmac } from 'node:crypto'
import { hex, type PackId, packId } from '../core/ids.ts'
import type { Random } from '../core/random.ts'

const PACK_FRESH_BYTES = 16

/** 32 bytes. `chunk` has the whole chunk size: the last one of a disk is padded with zeros. */
export const chunkId = (chunkIdKey: Uint8Array, chunk: Uint8Array): Uint8Array =>
  createHmac('sha256', chunkIdKey).update(chunk).digest()

export interface NodeContent {
  readonly level: number
  readonly width: number
  readonly chunkSize: number
  readonly bitmap: Uint8Array
  /** 32 bytes for each present entry. */
  readonly ids: Uint8Array
}

/** 32 bytes. Covers contents and never places, so that a rewritten pack changes no id. */
export function nodeId(nodeIdKey: Uint8Array, node: NodeContent): Uint8Array {
  const head = new DataView(new ArrayBuffer(9))
  head.setUint8(0, node.level)
  head.setUint32(1, node.width)
  head.setUint32(5, node.chunkSize)
  const hmac = createHmac('sha256', nodeIdKey).update('lifeboat/1 node').update(head)
  return hmac.update(node.bitmap).update(node.ids).digest()
}

/**
 * A fresh id for a pack with these contents. Even if `random` should repeat, two packs with the same id have the same
 * contents, so that no nonce ever seals two plaintexts. `idKey`: the chunk id key for data packs, the node id key for meta packs.
 */
export function newPackId(random: Random, epoch: number, idKey: Uint8Array, contentIds: Uint8Array): PackId {
  const digest = createHmac('sha256', idKey).update(random(PACK_FRESH_BYTES)).update(contentIds).digest()
  return packId(hex(Uint8Array.of(epoch, ...digest.subarray(0, 15))))
}
