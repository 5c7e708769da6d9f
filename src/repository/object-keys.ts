/**
 * The names of all objects of a repository (docs/repository-format.md, section 0): encode and parse. A parser gives
 * undefined for a key that is not of its kind: a listing may hold strangers, which are nobody's objects.
 */
import { LifeboatError } from '../core/errors.ts'
import {
  type DomainId,
  domainId,
  type LeaseId,
  leaseId,
  type PackId,
  type PointId,
  packId,
  pointId,
  type SlotId,
  slotId,
} from '../core/ids.ts'
import type { PackKind } from './pack-codec.ts'

export const configKey = 'config'
export const keysPrefix = 'keys/'
export const pointsPrefix = 'points/'
export const packsPrefix = 'packs/'
export const metaPrefix = 'meta/'
export const forgottenPrefix = 'forgotten/'
export const fencesPrefix = 'fences/'
export const leasesPrefix = 'leases/'
export const pinsPrefix = 'pins/'
export const holdsPrefix = 'holds/'
export const gcPrefix = 'gc/'
export const indexPrefix = 'index/'
export const damagedPrefix = 'damaged/'
export const auditPrefix = 'audit/'
export const policiesPrefix = 'policies/'
export const locksPrefix = 'locks/'
export const claimsPrefix = 'claims/'
export const tracesPrefix = 'traces/'

export const slotKey = (slot: SlotId): string => `keys/${slot}`
export const domainPrefix = (domain: DomainId): string => `keys/${domain}/`
export const domainKeysKey = (domain: DomainId, epoch: number): string => `keys/${domain}/${epoch}`
/** Who wants to make this epoch of a domain. */
export const epochClaimsPrefix = (domain: DomainId): string => `${claimsPrefix}epochs/${domain}/`
export const epochClaimKey = (domain: DomainId, epoch: number, id: string): string =>
  `${epochClaimsPrefix(domain)}${epoch}-${id}`
/** Who wants to remove this key slot. */
export const removalClaimsPrefix = `${claimsPrefix}removals/`
export const removalClaimKey = (slot: SlotId, id: string): string => `${removalClaimsPrefix}${slot}-${id}`
export const indexKey = (lease: LeaseId): string => `index/${lease}`
export const leaseKey = (lease: LeaseId): string => `leases/${lease}`
export const pinKey = (id: string): string => `pins/${id}`
export const holdKey = (id: string): string => `holds/${id}`
export const forgottenKey = (point: PointId): string => `forgotten/${point}`
export const leaseFencesPrefix = (lease: LeaseId): string => `fences/${lease}/`
/** `by` is a GC run's id or 'self', the owner giving up. */
export const fenceKey = (lease: LeaseId, by: string): string => `fences/${lease}/${by}`
export const gcKey = (run: string): string => `gc/${run}`
/** `run`: what one renewal of locks extended. */
export const lockLedgerKey = (run: string): string => `locks/${run}`
/** `<time>` first, so that a listing is in order of time; `id` tells entries of one second apart. */
export const auditKey = (when: Date, id: string): string => `${auditPrefix}${keyTime(when)}-${id}`
/** Immutable like everything else: the newest of a VM counts. `vm` absent: the policy of all that have none of their own. */
export const policyKey = (vm: string | undefined, when: Date, id: string): string =>
  `${policyPrefix(vm)}${keyTime(when)}-${id}`
export const policyPrefix = (vm: string | undefined): string =>
  vm === undefined ? `${policiesPrefix}default/` : `${policiesPrefix}vm/${encodeVmName(vm)}/`
/** What boots of this VM touched: the newest counts. */
export const vmTracesPrefix = (vm: string): string => `${tracesPrefix}${encodeVmName(vm)}/`
export const traceKey = (vm: string, when: Date, id: string): string => `${vmTracesPrefix(vm)}${keyTime(when)}-${id}`
export const damagedKey = (pack: PackId): string => `damaged/${pack}`

/** A VM's name as one part of a key: bytes outside [A-Za-z0-9_-] become %XX. Throws 'usage' for what cannot be a name. */
export function encodeVmName(vm: string): string {
  if (vm.length === 0 || !vm.isWellFormed())
    throw new LifeboatError('usage', 'a VM needs a name of valid Unicode text', { hint: 'Give the VM a name.' })
  let encoded = ''
  for (const byte of new TextEncoder().encode(vm)) {
    const char = String.fromCharCode(byte)
    encoded += /[A-Za-z0-9_-]/.test(char) ? char : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  if (encoded.length > 255)
    throw new LifeboatError('usage', `the VM name '${vm.slice(0, 40)}...' is too long`, {
      hint: 'Encoded as %XX it may have at most 255 characters: choose a shorter name.',
    })
  return encoded
}

/** Undefined unless `encoded` is exactly what encodeVmName gives: two spellings of one VM would be two VMs. */
export function decodeVmName(encoded: string): string | undefined {
  if (encoded.length > 255 || !/^(?:[A-Za-z0-9_-]|%[0-9A-F]{2})+$/.test(encoded)) return undefined
  try {
    const vm = decodeURIComponent(encoded)
    return encodeVmName(vm) === encoded ? vm : undefined
  } catch {
    return undefined
  }
}

/** `YYYYMMDDTHHMMSSZ`; fractions of a second are cut off. */
export const keyTime = (time: Date): string => `${time.toISOString().slice(0, 19).replace(/[-:]/g, '')}Z`

function parseKeyTime(text: string): Date | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text)
  if (!match) return undefined
  const [, year, month, day, hour, minute, second] = match
  const time = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
  return !Number.isNaN(time.getTime()) && keyTime(time) === text ? time : undefined
}

export const vmPointsPrefix = (vm: string): string => `points/${encodeVmName(vm)}/`
export const pointKey = (vm: string, takenAt: Date, point: PointId): string =>
  `${vmPointsPrefix(vm)}${keyTime(takenAt)}-${point}`

export interface PointKeyParts {
  readonly vm: string
  /** Whole seconds; the manifest has the fraction. */
  readonly takenAt: Date
  readonly point: PointId
}

export function parsePointKey(key: string): PointKeyParts | undefined {
  const match = /^points\/([^/]+)\/([0-9TZ]{16})-([0-9a-f]{16})$/.exec(key)
  if (!match) return undefined
  const [, name = '', time = '', point = ''] = match
  const vm = decodeVmName(name)
  const takenAt = parseKeyTime(time)
  return vm === undefined || takenAt === undefined ? undefined : { vm, takenAt, point: pointId(point) }
}

const packFolder = { data: 'packs', meta: 'meta' } as const

/** `run` names a rewritten object of the pack: `<pack>.<run>`. */
export function packKey(kind: PackKind, domain: DomainId, pack: PackId, run?: string): string {
  const name = run === undefined ? pack : `${pack}.${run}`
  return `${packFolder[kind]}/${domain}/${pack.slice(2, 4)}/${name}`
}

/** What a reader lists when `packKey` itself is absent. */
export const rewrittenPrefix = (kind: PackKind, domain: DomainId, pack: PackId): string =>
  `${packKey(kind, domain, pack)}.`

export interface PackKeyParts {
  readonly kind: PackKind
  readonly domain: DomainId
  readonly pack: PackId
  readonly run?: string
}

export function parsePackKey(key: string): PackKeyParts | undefined {
  const match = /^(packs|meta)\/([0-9a-f]{16})\/([0-9a-f]{2})\/([0-9a-f]{32})(?:\.([0-9a-f]{16}))?$/.exec(key)
  if (!match) return undefined
  const [, folder, domain = '', shard, pack = '', run] = match
  if (pack.slice(2, 4) !== shard) return undefined
  const kind = folder === packFolder.data ? 'data' : 'meta'
  return { kind, domain: domainId(domain), pack: packId(pack), ...(run === undefined ? {} : { run }) }
}

export function parseSlotKey(key: string): SlotId | undefined {
  const match = /^keys\/([0-9a-f]{16})$/.exec(key)
  return match?.[1] === undefined ? undefined : slotId(match[1])
}

const EPOCH = '(0|[1-9][0-9]{0,2})'

const parseEpoch = (text: string | undefined): number | undefined =>
  text !== undefined && Number(text) <= 255 ? Number(text) : undefined

export function parseDomainKeysKey(key: string): { readonly domain: DomainId; readonly epoch: number } | undefined {
  const match = new RegExp(`^keys/([0-9a-f]{16})/${EPOCH}$`).exec(key)
  const epoch = parseEpoch(match?.[2])
  return match?.[1] === undefined || epoch === undefined ? undefined : { domain: domainId(match[1]), epoch }
}

export function parseEpochClaimKey(key: string): { readonly epoch: number; readonly id: string } | undefined {
  const match = new RegExp(`^claims/epochs/[0-9a-f]{16}/${EPOCH}-([0-9a-f]{16})$`).exec(key)
  const epoch = parseEpoch(match?.[1])
  return match?.[2] === undefined || epoch === undefined ? undefined : { epoch, id: match[2] }
}

export function parseRemovalClaimKey(key: string): { readonly slot: SlotId; readonly id: string } | undefined {
  const match = /^claims\/removals\/([0-9a-f]{16})-([0-9a-f]{16})$/.exec(key)
  return match?.[1] === undefined || match[2] === undefined ? undefined : { slot: slotId(match[1]), id: match[2] }
}

export function parseLeaseKey(key: string): LeaseId | undefined {
  const match = /^leases\/([0-9a-f]{16})$/.exec(key)
  return match?.[1] === undefined ? undefined : leaseId(match[1])
}

export function parseIndexKey(key: string): LeaseId | undefined {
  const match = /^index\/([0-9a-f]{16})$/.exec(key)
  return match?.[1] === undefined ? undefined : leaseId(match[1])
}

export function parseDamagedKey(key: string): PackId | undefined {
  const match = /^damaged\/([0-9a-f]{32})$/.exec(key)
  return match?.[1] === undefined ? undefined : packId(match[1])
}

export function parseForgottenKey(key: string): PointId | undefined {
  const match = /^forgotten\/([0-9a-f]{16})$/.exec(key)
  return match?.[1] === undefined ? undefined : pointId(match[1])
}

export function parseFenceKey(key: string): { readonly lease: LeaseId; readonly by: string } | undefined {
  const match = /^fences\/([0-9a-f]{16})\/([0-9a-f]{16}|self)$/.exec(key)
  return match?.[1] === undefined || match[2] === undefined ? undefined : { lease: leaseId(match[1]), by: match[2] }
}

/** Undefined for what is no entry of the audit. */
export function parseAuditKey(key: string): { readonly when: Date; readonly id: string } | undefined {
  const match = /^audit\/([0-9TZ]{16})-([0-9a-f]{16})$/.exec(key)
  const when = parseKeyTime(match?.[1] ?? '')
  return match?.[2] === undefined || when === undefined ? undefined : { when, id: match[2] }
}

export interface PolicyKeyParts {
  /** Undefined: the default. */
  readonly vm: string | undefined
  readonly when: Date
}

export function parsePolicyKey(key: string): PolicyKeyParts | undefined {
  const match = /^policies\/(?:default|vm\/([^/]+))\/([0-9TZ]{16})-[0-9a-f]{16}$/.exec(key)
  const when = parseKeyTime(match?.[2] ?? '')
  if (!match || when === undefined) return undefined
  if (match[1] === undefined) return { vm: undefined, when }
  const vm = decodeVmName(match[1])
  return vm === undefined ? undefined : { vm, when }
}

/** The VM's name. */
export function parseTraceKey(key: string): string | undefined {
  const match = /^traces\/([^/]+)\/[0-9TZ]{16}-[0-9a-f]{16}$/.exec(key)
  return match?.[1] === undefined ? undefined : decodeVmName(match[1])
}
