/** From a credential to the repository's keys, and the keys of its domains as they are needed (docs/repository-format.md, section 2). */
import { LRUCache } from 'lru-cache'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import type { DomainId } from '../core/ids.ts'
import { KiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { badDocument } from '../crypto/clear-document.ts'
import type { UnverifiedConfig } from '../crypto/config-mac.ts'
import { publicRepositoryKey, repositoryKeys } from '../crypto/derive.ts'
import { openDomainKeys } from '../crypto/domain-keys.ts'
import { type KeySlot, keyFileSlot, parseKeySlot, unwrapKeySlot } from '../crypto/key-slot.ts'
import type { Credential, DomainKeys, RepositoryKeys } from '../crypto/keys.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { getBounded } from './control-object.ts'
import { domainKeysKey, keysPrefix, slotKey } from './object-keys.ts'

const SLOT_MAX_BYTES = 64 * KiB
/** Each may cost a second of scrypt; whoever can write to the store could plant any number. */
const PASSPHRASE_SLOTS_MAX = 32
/** A few hundred bytes each; a host with more domains than this reads some again. */
const DOMAIN_KEYS_KEPT = 4096

export interface Keyring {
  readonly repository: RepositoryKeys
  /** Read once and kept; simultaneous callers share one GET. Throws 'missing-object' where the domain's keys are gone. */
  domainKeys(domain: DomainId, epoch: number, options?: AbortOptions): Promise<DomainKeys>
  /** The same if they are at hand. */
  domainKeysNow(domain: DomainId, epoch: number): DomainKeys | undefined
  /** Takes the bytes of `keys/<domain>/<epoch>` that somebody has read already. */
  adopt(domain: DomainId, epoch: number, bytes: Uint8Array): void
}

export function keyring(store: ObjectStore, repository: RepositoryKeys): Keyring {
  const known = new LRUCache<string, DomainKeys>({ max: DOMAIN_KEYS_KEPT })
  const pending = new Map<string, Promise<DomainKeys>>()
  const adopt = (domain: DomainId, epoch: number, bytes: Uint8Array): DomainKeys => {
    const keys = openDomainKeys(domain, epoch, repository, bytes)
    known.set(domainKeysKey(domain, epoch), keys)
    return keys
  }
  const load = async (domain: DomainId, epoch: number): Promise<DomainKeys> => {
    const object = domainKeysKey(domain, epoch)
    const bytes = await getBounded(store, object, SLOT_MAX_BYTES)
    if (bytes) return adopt(domain, epoch, bytes)
    throw new LifeboatError('missing-object', `${object}, the keys of a domain, is not there`, {
      details: { object, domain, epoch },
      hint: 'What this domain holds cannot be read without it: restore the object from a copy of the repository.',
    })
  }
  return {
    repository,
    adopt,
    domainKeysNow: (domain, epoch) => known.get(domainKeysKey(domain, epoch)),
    async domainKeys(domain, epoch, { signal } = {}) {
      const name = domainKeysKey(domain, epoch)
      const found = known.get(name)
      if (found) return found
      const running = pending.get(name)
      if (running) return running
      // Shared with whoever asks next, so that it must not end with this caller's signal; it is one small GET.
      const loading = load(domain, epoch).finally(() => pending.delete(name))
      pending.set(name, loading)
      const keys = await loading
      signal?.throwIfAborted()
      return keys
    },
  }
}

/** The repository's keys, not yet compared with `config`. Throws 'key-missing' or 'key-wrong'. */
export async function unlock(
  store: ObjectStore,
  { config: { repository, encryption } }: UnverifiedConfig,
  credential: Credential,
  options: AbortOptions = {},
): Promise<Required<RepositoryKeys>> {
  if (encryption === 'none') {
    if (credential.kind === 'none') return withData(repositoryKeys(publicRepositoryKey(), repository))
    throw new LifeboatError(
      'key-wrong',
      `A key was given, and the repository in ${store.url} says that it is not encrypted`,
      {
        hint: 'If it never was, leave the key out. If it was, somebody has replaced its config: do not use it.',
      },
    )
  }
  if (credential.kind === 'none')
    throw new LifeboatError('key-missing', `The repository in ${store.url} is encrypted and no key was given`, {
      hint: 'Name the key file (--key-file or LIFEBOAT_KEY_FILE) or set LIFEBOAT_PASSPHRASE.',
    })
  const slots =
    credential.kind === 'file'
      ? await fileSlot(store, slotKey(keyFileSlot(credential.secret, repository)), options)
      : await passphraseSlots(store, options)
  let failure: unknown
  for (const slot of slots)
    try {
      return withData(repositoryKeys(await unwrapKeySlot(slot, credential, repository, options), repository))
    } catch (error) {
      if (!isLifeboatError(error, 'key-wrong')) throw error
      // Its name is a digest of this very key file, so that it is the slot that is wrong.
      if (credential.kind === 'file') throw badDocument(slotKey(slot.slot), 'does not authenticate')
      failure = error
    }
  throw new LifeboatError(
    'key-wrong',
    `The ${credential.kind === 'file' ? 'key file' : 'passphrase'} does not open ${store.url}`,
    {
      details: { repository },
      hint:
        credential.kind === 'file'
          ? `Use the key file that was made for this repository. If this is the one, its slot is gone: restore ${slotKey(keyFileSlot(credential.secret, repository))} from a copy of the repository.`
          : 'Use the passphrase that was chosen for this repository, letter by letter. A damaged slot looks the same: `keys/` in a copy of the repository has a good one.',
      cause: failure,
    },
  )
}

/** Without the right to data: garbage collection and tables need no more. */
export const metadataOnly = ({ data: _, ...keys }: RepositoryKeys): RepositoryKeys => keys

export function withData(keys: RepositoryKeys): Required<RepositoryKeys> {
  if (!keys.data) throw new LifeboatError('internal', 'a repository key gives no data key')
  return { ...keys, data: keys.data }
}

async function fileSlot(store: ObjectStore, object: string, options: AbortOptions): Promise<readonly KeySlot[]> {
  const bytes = await getBounded(store, object, SLOT_MAX_BYTES, options)
  return bytes ? [parseKeySlot(bytes, object)] : []
}

async function passphraseSlots(store: ObjectStore, options: AbortOptions): Promise<readonly KeySlot[]> {
  const slots: KeySlot[] = []
  let damaged: unknown
  for await (const { key } of store.list(keysPrefix, options)) {
    if (!/^keys\/[0-9a-f]{16}$/.test(key)) continue
    try {
      slots.push(...(await fileSlot(store, key, options)))
    } catch (error) {
      if (!isLifeboatError(error, 'corrupt-object') && !isLifeboatError(error, 'absurd-object')) throw error
      damaged ??= error
    }
  }
  const found = slots.filter(slot => slot.kind === 'passphrase')
  if (found.length > PASSPHRASE_SLOTS_MAX)
    throw new LifeboatError('absurd-object', `${store.url} has ${found.length} passphrases`, {
      hint: `At most ${PASSPHRASE_SLOTS_MAX} are tried. Open it with a key file and remove those that nobody knows.`,
    })
  // A damaged slot may be the one that was meant: that is told apart from a wrong passphrase.
  if (found.length === 0 && damaged) throw damaged
  return found
}
