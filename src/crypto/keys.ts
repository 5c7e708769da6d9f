/**
 * Crypto: key providers, sealing, keyed ids (docs/repository-format.md, sections 2 to 4).
 *
 * What it is: pure functions from keys and bytes to bytes, and the ways to get the repository key.
 * What it guarantees: what does not authenticate is never returned; a wrong key is told from a damaged object where the
 * format allows it.
 * What it does not know: stores, packs' layout, trees.
 */
import type { DomainId, RepositoryId, SlotId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'

/** How a person proves that they may open the repository. */
export type Credential =
  | { readonly kind: 'file' /** 32 bytes. */; readonly secret: Uint8Array }
  | { readonly kind: 'passphrase'; readonly passphrase: string }
  | KeptCredential
  | { readonly kind: 'none' }

/** A wrapping key that never leaves its keeper. How the keeper is reached is the host's business and is never read from a store. */
export interface KeptCredential {
  readonly kind: 'command' | 'pkcs11'
  /** For people: stands in the slot that is made with it. */
  readonly label: string
  readonly keeper: KeyKeeper
}

/** A program in front of a KMS, or a token. Throws 'key-unavailable' where it does not do what it was asked. */
export interface KeyKeeper {
  /** `secret`: 32 bytes. Gives what `unwrap` makes the same secret of, at the same place. */
  wrap(secret: Uint8Array, place: KeyPlace, options?: AbortOptions): Promise<Uint8Array>
  unwrap(blob: Uint8Array, place: KeyPlace, options?: AbortOptions): Promise<Uint8Array>
}

/** What a secret is bound to by keepers that can. */
export interface KeyPlace {
  readonly repository: RepositoryId
  readonly slot: SlotId
}

/** Derived from the repository key; each 32 bytes. `data` is absent where only metadata may be read. */
export interface RepositoryKeys {
  readonly repository: RepositoryId
  readonly metadata: Uint8Array
  readonly data?: Uint8Array
  readonly config: Uint8Array
  readonly check: Uint8Array
  /** The MAC of key slots: tells those that a holder of the repository key has made from what others have planted. */
  readonly slots: Uint8Array
}

/** One epoch of one domain. */
export interface DomainKeys {
  readonly domain: DomainId
  readonly epoch: number
  readonly metadataKey: Uint8Array
  readonly nodeIdKey: Uint8Array
  /** Absent where the holder has no right to data. */
  readonly dataKey?: Uint8Array
  readonly chunkIdKey?: Uint8Array
}

export type EnvelopeKind =
  | 'domain-metadata'
  | 'domain-data'
  | 'manifest'
  | 'index'
  | 'lease'
  | 'pin'
  | 'hold'
  | 'forgotten'
  | 'fence'
  | 'gc'
  | 'damaged'
  | 'audit'
  | 'policy'
  | 'lock-ledger'
  | 'claim'
  | 'trace'
