/** Branded identifiers: all are lower-case hex strings of a fixed length, so that they are safe in keys, names and JSON. */
import { LifeboatError } from './errors.ts'

declare const brand: unique symbol
type Id<B extends string> = string & { readonly [brand]: B }

/** 16 bytes. */
export type RepositoryId = Id<'repository'>
/** 8 bytes: the unit of dedup, of trust and of shredding. */
export type DomainId = Id<'domain'>
/** 8 bytes. */
export type PointId = Id<'point'>
/** 8 bytes. */
export type LeaseId = Id<'lease'>
/** 16 bytes, the first is the key epoch. */
export type PackId = Id<'pack'>
/** 8 bytes. */
export type SlotId = Id<'slot'>

const LENGTHS = { repository: 16, domain: 8, point: 8, lease: 8, pack: 16, slot: 8 } as const
type Kind = keyof typeof LENGTHS

function parseId<B extends Kind>(kind: B, text: string): Id<B> {
  if (text.length !== LENGTHS[kind] * 2 || !/^[0-9a-f]+$/.test(text))
    throw new LifeboatError('absurd-object', `'${text.slice(0, 80)}' is not a ${kind} id`)
  return text as Id<B>
}

export const repositoryId = (text: string): RepositoryId => parseId('repository', text)
export const domainId = (text: string): DomainId => parseId('domain', text)
export const pointId = (text: string): PointId => parseId('point', text)
export const leaseId = (text: string): LeaseId => parseId('lease', text)
export const packId = (text: string): PackId => parseId('pack', text)
export const slotId = (text: string): SlotId => parseId('slot', text)

export const hex = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')
export const unhex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'))
