/**
 * What a store charges: price lists by name, and what a use of the store costs by one. Requests are charged in two classes, as
 * Amazon does: PUT and LIST, and everything else; deletes are free.
 */
import { LifeboatError } from '../core/errors.ts'
import { GiB } from '../core/limits.ts'
import { type StoreVerb, storeVerbs } from './metered.ts'

export interface PriceList {
  readonly name: string
  /** ISO 4217. */
  readonly currency: string
  readonly putPer1000: number
  readonly listPer1000: number
  /** Also HEAD and every question about the bucket. */
  readonly getPer1000: number
  readonly deletePer1000: number
  /** Of what is kept for a month. */
  readonly storagePerGiBMonth: number
  /** Of what leaves the provider's network; within it, most charge nothing. */
  readonly egressPerGiB: number
}

/** Of a folder. */
export const FREE: PriceList = {
  name: 'none',
  currency: 'USD',
  putPer1000: 0,
  listPer1000: 0,
  getPer1000: 0,
  deletePer1000: 0,
  storagePerGiBMonth: 0,
  egressPerGiB: 0,
}

/** Of the first tier; prices change, so each list says where and when it held. */
const LISTS: readonly PriceList[] = [
  FREE,
  {
    // us-east-1, November 2026.
    name: 'aws-s3-standard',
    currency: 'USD',
    putPer1000: 0.005,
    listPer1000: 0.005,
    getPer1000: 0.0004,
    deletePer1000: 0,
    storagePerGiBMonth: 0.023,
    egressPerGiB: 0.09,
  },
]

/** What an operation asks of a store. */
export interface StoreUse {
  readonly requests: Partial<Readonly<Record<StoreVerb, number>>>
  readonly bytesUploaded: number
  readonly bytesDownloaded: number
  /** How much more the store keeps afterwards; negative where it is less. */
  readonly bytesKept: number
}

export interface Cost {
  readonly currency: string
  /** Name of the list. */
  readonly prices: string
  readonly requests: number
  /** If the bytes leave the provider's network. */
  readonly egress: number
  readonly storagePerMonth: number
}

export function costOf(use: StoreUse, list: PriceList): Cost {
  const priceOf = (verb: StoreVerb): number => {
    if (verb === 'put') return list.putPer1000
    if (verb === 'list') return list.listPer1000
    return verb === 'delete' ? list.deletePer1000 : list.getPer1000
  }
  const requests = storeVerbs.reduce((sum, verb) => sum + ((use.requests[verb] ?? 0) / 1000) * priceOf(verb), 0)
  return {
    currency: list.currency,
    prices: list.name,
    requests,
    egress: (use.bytesDownloaded / GiB) * list.egressPerGiB,
    storagePerMonth: (use.bytesKept / GiB) * list.storagePerGiBMonth,
  }
}

const FIELDS = {
  'put-per-1000': 'putPer1000',
  'list-per-1000': 'listPer1000',
  'get-per-1000': 'getPer1000',
  'delete-per-1000': 'deletePer1000',
  'storage-per-gib-month': 'storagePerGiBMonth',
  'egress-per-gib': 'egressPerGiB',
} as const

/** `prices:` of the config file: the name of a list, or a list of one's own; what it does not name costs nothing. Throws 'usage'. */
export function parsePrices(value: unknown): PriceList {
  if (typeof value === 'string') return namedList(value)
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw unclear('are neither a name nor a list')
  const list: { -readonly [field in keyof PriceList]: PriceList[field] } = { ...FREE, name: 'own' }
  for (const [name, entry] of Object.entries(value)) {
    const field = Object.entries(FIELDS).find(([known]) => known === name)?.[1]
    if (name === 'currency') list.currency = currencyOf(entry)
    else if (!field) throw unclear(`have no '${name}'`)
    else if (typeof entry !== 'number' || !(entry >= 0) || !Number.isFinite(entry))
      throw unclear(`want a number for '${name}'`)
    else list[field] = entry
  }
  return list
}

/** A directory costs nothing by the request. Of a bucket without a list Amazon's prices are the best guess, and are called one. */
export function defaultPrices(storeUrl: string): { readonly list: PriceList; readonly isAssumed: boolean } {
  return /^s3:/i.test(storeUrl)
    ? { list: namedList('aws-s3-standard'), isAssumed: true }
    : { list: FREE, isAssumed: false }
}

function namedList(name: string): PriceList {
  const list = LISTS.find(candidate => candidate.name === name)
  if (list) return list
  throw unclear(`name no list '${name}'`)
}

function currencyOf(value: unknown): string {
  if (typeof value === 'string' && /^[A-Z]{3}$/.test(value)) return value
  throw unclear("want three letters for 'currency'")
}

const unclear = (what: string): LifeboatError =>
  new LifeboatError('usage', `the prices of the configuration file ${what}`, {
    hint: `write the name of a list (${LISTS.map(({ name }) => name).join(', ')}), or one of your own: currency, ${Object.keys(FIELDS).join(', ')}`,
  })
