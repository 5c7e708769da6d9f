/** From a credential to the repository's keys, and the keys of its domains as they are needed (docs/repository-format.md, section 2). */
import { isIntegrityError, isLifeboatError, LifeboatError } from '../core/errors.ts'
import type { DomainId, RepositoryId, SlotId } from '../core/ids.ts'
import { KiB, limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { badDocument } from '../crypto/clear-document.ts'
import type { UnverifiedConfig } from '../crypto/config-mac.ts'
import { publicRepositoryKey, repositoryKeys } from '../crypto/derive.ts'
import { openDomainKeys } from '../crypto/domain-keys.ts'
import { type KeySlot, keyFileSlot, nameOf, parseKeySlot, unwrapKeySlot } from '../crypto/key-slot.ts'
import type { Credential, DomainKeys, RepositoryKeys } from '../crypto/keys.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { authentic } from './authentic.ts'
import { getBounded } from './control-object.ts'
import { domainKeysKey, keysPrefix, parseSlotKey, slotKey } from './object-keys.ts'

const SLOT_MAX_BYTES = 64 * KiB
/** Each may cost a second of scrypt or a call of a KMS; whoever can write to the store could plant any number. */
const TRIED_SLOTS_MAX = 32
/** A few hundred bytes each; a host with more domains than this reads some again. Most have one: a table for all of them would cost half a millisecond an open. */
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
  const known = new Map<string, DomainKeys>()
  const pending = new Map<string, Promise<DomainKeys>>()
  const adopt = (domain: DomainId, epoch: number, bytes: Uint8Array): DomainKeys => {
    const keys = openDomainKeys(domain, epoch, repository, bytes)
    if (known.size >= DOMAIN_KEYS_KEPT) known.clear()
    known.set(domainKeysKey(domain, epoch), keys)
    return keys
  }
  const load = async (domain: DomainId, epoch: number): Promise<DomainKeys> => {
    const object = domainKeysKey(domain, epoch)
    const keys = await authentic(store, object, async from => {
      const bytes = await getBounded(from, object, SLOT_MAX_BYTES)
      return bytes && adopt(domain, epoch, bytes)
    })
    if (keys) return keys
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

export interface Unlocked {
  readonly keys: Required<RepositoryKeys>
  /** The slot that the credential opened; an unencrypted repository has none. */
  readonly slot?: SlotId
}

/** The repository's keys, not yet compared with `config`. Throws 'key-missing', 'key-wrong' or 'key-unavailable'. */
export async function unlock(
  store: ObjectStore,
  { config: { repository, encryption } }: UnverifiedConfig,
  credential: Credential,
  options: AbortOptions = {},
): Promise<Unlocked> {
  if (encryption === 'none') {
    if (credential.kind === 'none') return { keys: withData(repositoryKeys(publicRepositoryKey(), repository)) }
    throw new LifeboatError(
      'key-wrong',
      `A key was given, and the repository in ${store.url} says that it is not encrypted`,
      {
        hint: 'If it never was, leave the key out. If it was, somebody has replaced its config: do not use it.',
      },
    )
  }
  const { slot, repositoryKey } = await unwrapRepositoryKey(store, repository, credential, options)
  return { keys: withData(repositoryKeys(repositoryKey, repository)), slot: slot.slot }
}

/** The repository key itself, which nothing but making another slot asks for. */
export async function unwrapRepositoryKey(
  store: ObjectStore,
  repository: RepositoryId,
  credential: Credential,
  options: AbortOptions = {},
): Promise<{ readonly slot: KeySlot; readonly repositoryKey: Uint8Array }> {
  if (credential.kind === 'none')
    throw new LifeboatError('key-missing', `The repository in ${store.url} is encrypted and no key was given`, {
      hint: 'Name the key file (--key-file or LIFEBOAT_KEY_FILE) or set LIFEBOAT_PASSPHRASE.',
    })
  const tried =
    credential.kind === 'file'
      ? await slotOfFile(store, slotKey(keyFileSlot(credential.secret, repository)), options)
      : await slotsToTry(store, credential, options)
  let failure: unknown
  for (const slot of tried.slots)
    try {
      return { slot, repositoryKey: await unwrapKeySlot(slot, credential, repository, options) }
    } catch (error) {
      // A keeper that does not know one slot may know the next, which another of its keys has made.
      const isNext = isLifeboatError(error, 'key-wrong') || isLifeboatError(error, 'key-unavailable')
      if (!isNext) throw error
      // Its name is a digest of this very key file, so that it is the slot that is wrong.
      if (credential.kind === 'file') throw badDocument(slotKey(slot.slot), 'does not authenticate')
      failure = isLifeboatError(failure, 'key-unavailable') ? failure : error
    }
  if (isLifeboatError(failure, 'key-unavailable')) throw failure
  await refuseWithheld(store, tried, options)
  throw new LifeboatError('key-wrong', `The ${nameOf(credential)} does not open ${store.url}`, {
    details: { repository },
    hint: WRONG_HINTS[credential.kind](repository, credential),
    cause: failure,
  })
}

const WRONG_HINTS = {
  none: () => '',
  file: (repository: RepositoryId, credential: Credential) =>
    `Use a key file of this repository. If this one was exchanged or removed, take the new one; if it was not, its slot is lost: restore ${credential.kind === 'file' ? slotKey(keyFileSlot(credential.secret, repository)) : ''} from a copy of the repository.`,
  passphrase: () =>
    'Use the passphrase that was chosen for this repository, letter by letter. A damaged slot looks the same: `keys/` in a copy of the repository has a good one.',
  command: () => 'Check that the key command asks for the key with which it wrapped this repository.',
  pkcs11: () => 'Check that the token and the label of its key are those with which this repository was wrapped.',
} as const

/** Without the right to data: garbage collection and tables need no more. */
export const metadataOnly = ({ data: _, ...keys }: RepositoryKeys): RepositoryKeys => keys

export function withData(keys: RepositoryKeys): Required<RepositoryKeys> {
  if (!keys.data) throw new LifeboatError('internal', 'a repository key gives no data key')
  return { ...keys, data: keys.data }
}

/**
 * That a key opens nothing is not said while a slot is listed and not given: which one it was cannot be known. Asked only
 * when nothing has opened.
 */
async function refuseWithheld(store: ObjectStore, { slots, absent }: SlotsToTry, options: AbortOptions): Promise<void> {
  if (absent.length === 0 && slots.length > 0) return
  const listed: string[] = []
  for await (const { key } of store.list(keysPrefix, options)) if (parseSlotKey(key)) listed.push(key)
  const withheld = absent.find(object => listed.includes(object))
  if (withheld !== undefined)
    throw new LifeboatError(
      'store-failed',
      `${store.url} lists ${withheld} and does not give it: no key could be tried on it`,
      {
        details: { object: withheld },
        hint: 'This says nothing about the key. Try again; if it stays, look what is wrong with the store.',
      },
    )
  if (listed.length > 0) return
  const [object = keysPrefix] = absent
  throw new LifeboatError('missing-object', `${store.url} is encrypted, and all its key slots are gone`, {
    details: { object },
    hint: `Nothing can be read without one: restore ${object} from a copy of the repository.`,
  })
}

async function slotAt(store: ObjectStore, object: string, options: AbortOptions): Promise<KeySlot | undefined> {
  const bytes = await getBounded(store, object, SLOT_MAX_BYTES, options)
  return bytes && parseKeySlot(bytes, object)
}

interface SlotsToTry {
  readonly slots: readonly KeySlot[]
  /** Asked for and not there: removed, or the store errs. */
  readonly absent: readonly string[]
}

async function slotOfFile(store: ObjectStore, object: string, options: AbortOptions): Promise<SlotsToTry> {
  const slot = (await slotAt(store, object, options)) ?? (await slotAt(store, object, options))
  return slot ? { slots: [slot], absent: [] } : { slots: [], absent: [object] }
}

export interface SlotList extends SlotsToTry {
  /** Objects that lie where slots do and are none. */
  readonly damaged: readonly { readonly slot: SlotId; readonly error: LifeboatError }[]
}

export async function listSlots(store: ObjectStore, options: AbortOptions = {}): Promise<SlotList> {
  const slots: KeySlot[] = []
  const absent: string[] = []
  const damaged: SlotList['damaged'][number][] = []
  for await (const { key } of store.list(keysPrefix, options)) {
    const slot = parseSlotKey(key)
    if (!slot) continue
    if (slots.length + damaged.length === limits.keySlotsMax)
      throw new LifeboatError('absurd-object', `${store.url} has more than ${limits.keySlotsMax} key slots`, {
        details: { object: keysPrefix },
        hint: 'Somebody has planted them. Open it with a key file, whose slot is found by its name, and remove them from `keys/`.',
      })
    try {
      const found = (await slotAt(store, key, options)) ?? (await slotAt(store, key, options))
      if (found) slots.push(found)
      else absent.push(key)
    } catch (error) {
      if (!isIntegrityError(error) && !isLifeboatError(error, 'newer-format')) throw error
      damaged.push({ slot, error })
    }
  }
  return { slots, absent, damaged }
}

async function slotsToTry(store: ObjectStore, credential: Credential, options: AbortOptions): Promise<SlotsToTry> {
  const { slots, absent, damaged } = await listSlots(store, options)
  const found = slots.filter(({ kind }) => kind === credential.kind)
  if (found.length > TRIED_SLOTS_MAX)
    throw new LifeboatError('absurd-object', `${store.url} has ${found.length} slots of kind ${credential.kind}`, {
      hint: `At most ${TRIED_SLOTS_MAX} are tried. Open it with a key file and remove those that nobody knows: \`lifeboat key list\`.`,
    })
  // A damaged slot may be the one that was meant: that is told apart from a wrong passphrase.
  if (found.length === 0 && damaged[0]) throw damaged[0].error
  return { slots: affordable(found), absent }
}

/** Cheap ones first, as long as all together cost no more than a person waits for: costs are chosen by who wrote the slot. */
function affordable(slots: readonly KeySlot[]): readonly KeySlot[] {
  const workOf = (slot: KeySlot) => (slot.kind === 'passphrase' ? slot.kdf.N * slot.kdf.r * slot.kdf.p : 0)
  let work = 0
  return slots
    .toSorted((a, b) => workOf(a) - workOf(b) || a.created.getTime() - b.created.getTime())
    .filter(slot => {
      work += workOf(slot)
      return work <= limits.scryptWorkMax
    })
}
