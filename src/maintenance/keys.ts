/**
 * The wrapping keys of a repository: listed, added, removed, exchanged. None of it touches data: each key slot holds the same
 * repository key. Whoever has had that key once may have kept it; removing a slot takes back a key file or passphrase, not knowledge.
 */
import { timingSafeEqual } from 'node:crypto'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { hex, type SlotId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import {
  encodeKeySlot,
  isVouchedFor,
  type KeySlot,
  nameOf,
  parseKeySlot,
  type ScryptCost,
  unwrapKeySlot,
  wrapFor,
} from '../crypto/key-slot.ts'
import type { Credential } from '../crypto/keys.ts'
import { getBounded } from '../repository/control-object.ts'
import { listSlots, unwrapRepositoryKey } from '../repository/keyring.ts'
import { parseRemovalClaimKey, removalClaimKey, removalClaimsPrefix, slotKey } from '../repository/object-keys.ts'
import { type AuditAction, recordAudit } from './audit.ts'
import type { MaintenanceContext } from './maintenance.ts'

export interface RepositoryKey {
  readonly id: SlotId
  readonly kind: KeySlot['kind'] | 'damaged'
  /** Absent where damaged. */
  readonly created?: Date
  readonly label?: string
  /**
   * 'this': it opened the repository now. 'likely': made by a holder of the repository key, so that it opens for who still has
   * its secret. 'unknown': nothing vouches for it; it may be old, or planted. Nobody can try a key without its secret.
   */
  readonly usable: 'this' | 'likely' | 'unknown'
}

export interface KeyContext extends MaintenanceContext {
  /** The slot that opened the repository. */
  readonly slot: SlotId
  /** What opened it. */
  readonly credential: Credential
}

export async function listKeys(
  { store, keyring, slot: opened }: Pick<KeyContext, 'store' | 'keyring'> & { readonly slot: SlotId | undefined },
  options: AbortOptions = {},
): Promise<readonly RepositoryKey[]> {
  const { slots, damaged } = await listSlots(store, options)
  const described = slots.map((slot): RepositoryKey => {
    const { slot: id, kind, created } = slot
    const usable = id === opened ? 'this' : isVouchedFor(slot, keyring.repository) ? 'likely' : 'unknown'
    return { id, kind, created, ...('label' in slot ? { label: slot.label } : {}), usable }
  })
  const broken = damaged.map(({ slot: id }) => ({ id, kind: 'damaged', usable: 'unknown' }) as const)
  return [...described, ...broken].sort((a, b) => (a.id < b.id ? -1 : 1))
}

export interface AddOptions extends AbortOptions {
  readonly scryptCost?: ScryptCost
}

/** Resolves when the new key was stored, read back and has opened the repository. Added before, it is only tried. */
export async function addKey(context: KeyContext, added: Credential, options: AddOptions = {}): Promise<SlotId> {
  return (await addAs('key-add', context, added, options)).slot
}

async function addAs(
  action: AuditAction,
  context: KeyContext,
  added: Credential,
  { scryptCost, signal }: AddOptions,
): Promise<KeySlot> {
  const { store, keyring, credential, clock, random } = context
  const { repository } = keyring.repository
  const { repositoryKey } = await unwrapRepositoryKey(store, repository, credential, { signal })
  const wrapping = { repository, repositoryKey, created: clock.now(), random }
  const slot = await wrapFor(added, wrapping, { cost: scryptCost, signal })
  if (!slot) throw new LifeboatError('usage', 'an unencrypted repository has no keys')
  const object = slotKey(slot.slot)
  if (slot.kind !== 'file' || !(await store.head(object, { signal }))) {
    await recordAudit(context, action, { slot: slot.slot, kind: slot.kind }, { signal })
    await store.put(object, [encodeKeySlot(slot)], { signal })
  }
  await proveKey(context, object, added, repositoryKey, { signal })
  return slot
}

/** Nothing is taken away on account of a key that has not opened the repository as it is stored. */
async function proveKey(
  { store, keyring }: KeyContext,
  object: string,
  credential: Credential,
  repositoryKey: Uint8Array,
  options: AbortOptions,
): Promise<void> {
  const bytes = await getBounded(store, object, limits.controlObjectMax, options)
  if (bytes) {
    const slot = parseKeySlot(bytes, object)
    const unwrapped = await unwrapKeySlot(slot, credential, keyring.repository.repository, options)
    if (timingSafeEqual(unwrapped, repositoryKey)) return
  }
  throw new LifeboatError('corrupt-object', `The new key was stored in ${object} and does not open from there`, {
    details: { object },
    hint: 'The keys before are as they were. Find out what is wrong with the store, and try again.',
  })
}

/**
 * Throws 'last-key' unless another key is left that is known to open the repository, or likely to: the one that opened it now, or
 * one that a holder of the repository key has made.
 */
export async function removeKey(context: KeyContext, id: SlotId, options: AbortOptions = {}): Promise<void> {
  await removeSlot(context, id, context.slot, options)
}

/** First the new key is there and has opened the repository, then the old one goes: killed at any point, one of them opens. */
export async function rotateKey(context: KeyContext, added: Credential, options: AddOptions = {}): Promise<SlotId> {
  const { slot } = await addAs('key-rotate', context, added, options)
  if (slot === context.slot)
    throw new LifeboatError('usage', `This ${nameOf(added)} is the one that opened the repository`, {
      hint: 'name a new one, for example --new-key-file FILE: it is made',
    })
  await removeSlot(context, context.slot, slot, options)
  return slot
}

/**
 * `proven`: a slot that has opened the repository in this call. Two hosts could each remove the key of the other, so each says what
 * it is going to remove before it looks at what is left: one of the two sees the other's claim, or finds its own key gone.
 * A claim that a dead host left only keeps its key from being counted; removing that key takes the claim away.
 */
async function removeSlot(context: KeyContext, id: SlotId, proven: SlotId, { signal }: AbortOptions): Promise<void> {
  const { store, control, keyring, clock, random, who } = context
  if (!(await store.head(slotKey(id), { signal }))) throw noSuchKey(id)
  const mine = removalClaimKey(id, hex(random(8)))
  await control.put('claim', mine, { who, when: clock.now().toISOString() }, { signal })
  try {
    const going = new Set<SlotId>([id])
    for await (const key of control.list('claim', { prefix: removalClaimsPrefix, signal })) {
      const claim = parseRemovalClaimKey(key)
      if (claim) going.add(claim.slot)
    }
    const { slots } = await listSlots(store, { signal })
    const left = slots.filter(slot => !going.has(slot.slot))
    if (!left.some(slot => slot.slot === proven || isVouchedFor(slot, keyring.repository))) throw lastKey(id)
    await recordAudit(context, 'key-remove', { slot: id }, { signal })
    await store.delete([slotKey(id)], { signal })
  } catch (error) {
    await control.delete([mine]).catch(() => {})
    if (!isLifeboatError(error, 'store-locked')) throw error
    throw new LifeboatError(
      'store-locked',
      `The store keeps ${slotKey(id)} locked: this key still opens the repository`,
      {
        details: error.details,
        hint: 'Keys that were added are there. Remove this one when its lock has ended: `lifeboat key remove`.',
        cause: error,
      },
    )
  }
  const claims: string[] = []
  for await (const key of control.list('claim', { prefix: `${removalClaimsPrefix}${id}-`, signal })) claims.push(key)
  await control.delete(claims, { signal })
}

const noSuchKey = (id: SlotId): LifeboatError =>
  new LifeboatError('usage', `the repository has no key ${id}`, { hint: '`lifeboat key list` shows them' })

const lastKey = (id: SlotId): LifeboatError =>
  new LifeboatError('last-key', `Without key ${id} nobody could open this repository any more`, {
    details: { object: slotKey(id) },
    hint: 'Add another first: `lifeboat key add --type file --new-key-file FILE`. Keys that nothing vouches for, or that another host is removing, do not count.',
  })
