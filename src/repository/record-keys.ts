import { LRUCache } from 'lru-cache'
import { LifeboatError } from '../core/errors.ts'
import type { DomainId, PackId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import { recordAadPrefix } from '../crypto/aad.ts'
import { slotKey } from '../crypto/derive.ts'
import type { DomainKeys } from '../crypto/keys.ts'
import type { Keyring } from './keyring.ts'
import type { PackKind } from './pack-codec.ts'

/** What opens every record of one pack. */
export interface PackSecret {
  /** The slot key. */
  readonly key: Uint8Array
  readonly aadPrefix: Uint8Array
}

/** 16 MiB each, so these are the packs of the last 16 GiB that were read; an entry takes about 300 bytes. */
const SECRETS_KEPT = 1024

export const epochOf = (pack: PackId): number => Number.parseInt(pack.slice(0, 2), 16)

/** Slot keys by pack: a derivation costs as much as opening a small record. */
export class RecordKeys {
  readonly #keyring: Keyring
  readonly #known = new LRUCache<string, PackSecret>({ max: SECRETS_KEPT })

  constructor(keyring: Keyring) {
    this.#keyring = keyring
  }

  /** Throws 'key-missing' where the holder has no right to data. */
  async of(kind: PackKind, domain: DomainId, pack: PackId, options: AbortOptions): Promise<PackSecret> {
    const name = `${kind}${domain}${pack}`
    const known = this.#known.get(name)
    if (known) return known
    const keys = await this.domain(domain, pack, options)
    const repository = this.#keyring.repository.repository
    const secret = {
      key: slotKey(kind === 'data' ? dataKeyOf(keys) : keys.metadataKey, pack),
      aadPrefix: recordAadPrefix({ repository, domain, kind, pack }),
    }
    this.#known.set(name, secret)
    return secret
  }

  /** The keys of the epoch that the pack was sealed in. */
  async domain(domain: DomainId, pack: PackId, options: AbortOptions): Promise<DomainKeys> {
    const epoch = epochOf(pack)
    return this.#keyring.domainKeysNow(domain, epoch) ?? (await this.#keyring.domainKeys(domain, epoch, options))
  }
}

function dataKeyOf({ domain, dataKey }: DomainKeys): Uint8Array {
  if (dataKey) return dataKey
  throw new LifeboatError('key-missing', `This key gives no right to the data of domain ${domain}`, {
    details: { domain },
    hint: 'Use a key that opens data too.',
  })
}
