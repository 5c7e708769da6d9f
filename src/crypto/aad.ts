/** What binds a sealed thing to its place: every AAD opens with `lifeboat/1` | 0 | repository id. */
import { type DomainId, type PackId, type RepositoryId, unhex } from '../core/ids.ts'

export { recordAad } from '../native/record.ts'

const text = (value: string): Uint8Array => new TextEncoder().encode(value)

export const placeAad = (repository: RepositoryId, ...rest: Uint8Array[]): Uint8Array =>
  Buffer.concat([text('lifeboat/1\0'), unhex(repository), ...rest])

/** AAD of an envelope, or of a pack's footer, whose kind is `footer`. */
export const objectAad = (repository: RepositoryId, kind: string, objectKey: string): Uint8Array =>
  placeAad(repository, text(`${kind}\0${objectKey}`))

export type PackKind = 'data' | 'meta'

/** 52 bytes, shared by all records of a pack: `native/` appends slot and content id. */
export const recordAadPrefix = (place: {
  readonly repository: RepositoryId
  readonly domain: DomainId
  readonly kind: PackKind
  readonly pack: PackId
}): Uint8Array =>
  placeAad(place.repository, unhex(place.domain), Uint8Array.of(place.kind === 'data' ? 1 : 2), unhex(place.pack))
