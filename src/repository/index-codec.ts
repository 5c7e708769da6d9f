/** `index/<lease>`: sampled ids of what one backup wrote, as bytes (docs/repository-format.md, section 7). Pure. */
import { type DomainId, domainId, hex, type PackId, packId, unhex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { ByteCursor } from './byte-cursor.ts'
import { idPrefixBytes } from './pack-codec.ts'

const VERSION = 1
const HOOK_BYTES = idPrefixBytes + 4
/** A TiB of new data has 6 MiB of hooks: doubled, the last MiB would cost as many again. */
const GROWTH_MAX = 24 * 64 * 1024

export interface BackupIndex {
  readonly domain: DomainId
  /** In the order in which they were written. */
  readonly packs: readonly PackId[]
  /** 24 bytes each: content id prefix (20) | u32 position in `packs`; sorted. */
  readonly hooks: Uint8Array
}

/** One id in 64 is kept. */
export const isHook = (id: Uint8Array, at = 0): boolean => (id[at]! & limits.indexSampleMask) === 0

/** `hooks` in any order. */
export function encodeIndex({ domain, packs, hooks }: BackupIndex): Uint8Array {
  const count = hooks.length / HOOK_BYTES
  const bytes = new Uint8Array(17 + packs.length * 16 + hooks.length)
  const view = new DataView(bytes.buffer)
  bytes[0] = VERSION
  bytes.set(unhex(domain), 1)
  view.setUint32(9, packs.length)
  view.setUint32(13, count)
  let at = 17
  for (const pack of packs) {
    bytes.set(unhex(pack), at)
    at += 16
  }
  for (const hook of inOrder(hooks, count)) {
    bytes.set(hooks.subarray(hook * HOOK_BYTES, (hook + 1) * HOOK_BYTES), at)
    at += HOOK_BYTES
  }
  return bytes
}

/** By their first 8 bytes, which differ; numbers instead of views, of which a TiB would need a quarter of a million. */
function inOrder(hooks: Uint8Array, count: number): Uint32Array {
  const view = new DataView(hooks.buffer, hooks.byteOffset, hooks.length)
  const word = (hook: number, at: number) => view.getUint32(hook * HOOK_BYTES + at)
  return Uint32Array.from({ length: count }, (_, hook) => hook).sort(
    (a, b) => word(a, 0) - word(b, 0) || word(a, 4) - word(b, 4) || a - b,
  )
}

/** Counts are compared with the length before anything is made of them; `hooks` is a view of `bytes`. Throws 'absurd-object'. */
export function parseIndex(bytes: Uint8Array, object: string): BackupIndex {
  const cursor = new ByteCursor(bytes, object)
  if (cursor.uint(1) !== VERSION) throw cursor.absurd('is of an unknown version')
  const domain = domainId(hex(cursor.take(8)))
  const packCount = cursor.uint(4)
  const hookCount = cursor.uint(4)
  if (packCount * 16 + hookCount * HOOK_BYTES !== cursor.remaining)
    throw cursor.absurd('has other counts than contents')
  const packs: PackId[] = []
  for (let p = 0; p < packCount; p++) packs.push(packId(hex(cursor.take(16))))
  const hooks = cursor.take(hookCount * HOOK_BYTES)
  const view = new DataView(hooks.buffer, hooks.byteOffset, hooks.length)
  for (let hook = 0; hook < hookCount; hook++)
    if (view.getUint32(hook * HOOK_BYTES + idPrefixBytes) >= packCount)
      throw cursor.absurd('names a pack that it does not list')
  return { domain, packs, hooks }
}

/** Hooks and pack list of the backup that is under way. */
export class IndexBuilder {
  readonly #packs: PackId[] = []
  #hooks = new Uint8Array(64 * HOOK_BYTES)
  #used = 0

  get packCount(): number {
    return this.#packs.length
  }

  /** `ids`: 32 bytes for each slot. */
  add(pack: PackId, ids: Uint8Array): void {
    const position = this.#packs.push(pack) - 1
    for (let at = 0; at < ids.length; at += 32) {
      if (!isHook(ids, at)) continue
      if (this.#used === this.#hooks.length) {
        const larger = new Uint8Array(this.#hooks.length + Math.min(this.#hooks.length, GROWTH_MAX))
        larger.set(this.#hooks)
        this.#hooks = larger
      }
      this.#hooks.set(ids.subarray(at, at + idPrefixBytes), this.#used)
      new DataView(this.#hooks.buffer).setUint32(this.#used + idPrefixBytes, position)
      this.#used += HOOK_BYTES
    }
  }

  encode(domain: DomainId): Uint8Array {
    return encodeIndex({ domain, packs: this.#packs, hooks: this.#hooks.subarray(0, this.#used) })
  }
}
