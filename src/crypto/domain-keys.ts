/** `keys/<domain>/<epoch>` (docs/repository-format.md, section 2): two envelopes, so that the right to metadata is not that to data. */
import { LifeboatError } from '../core/errors.ts'
import type { DomainId } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import { ENVELOPE_OVERHEAD, type EnvelopePlace, openEnvelope, sealEnvelope } from './envelope.ts'
import type { DomainKeys, RepositoryKeys } from './keys.ts'

const SECTION_BYTES = ENVELOPE_OVERHEAD + 64
const OBJECT_BYTES = 4 + 2 * SECTION_BYTES

/** Both sections: what a writer holds. */
export type FullDomainKeys = Required<DomainKeys>

export const domainKeysObject = (domain: DomainId, epoch: number): string => `keys/${domain}/${epoch}`

/** `base`: the domain's epoch 0, whose id keys all later epochs repeat, so that ids do not change with the epoch. */
export function newDomainKeys(domain: DomainId, epoch: number, random: Random, base?: FullDomainKeys): FullDomainKeys {
  return {
    domain,
    epoch,
    metadataKey: random(32),
    nodeIdKey: base?.nodeIdKey ?? random(32),
    dataKey: random(32),
    chunkIdKey: base?.chunkIdKey ?? random(32),
  }
}

export function sealDomainKeys(keys: FullDomainKeys, holder: Required<RepositoryKeys>, random: Random): Uint8Array {
  const { metadata, data } = placesOf(keys.domain, keys.epoch, holder)
  const length = new Uint8Array(4)
  new DataView(length.buffer).setUint32(0, SECTION_BYTES)
  return Buffer.concat([
    length,
    sealEnvelope(metadata, holder.metadata, Buffer.concat([keys.metadataKey, keys.nodeIdKey]), random),
    sealEnvelope(data, holder.data, Buffer.concat([keys.dataKey, keys.chunkIdKey]), random),
  ])
}

/** Without `data` where the holder has no repository data key. Throws 'corrupt-object' with the object's key. */
export function openDomainKeys(domain: DomainId, epoch: number, holder: RepositoryKeys, bytes: Uint8Array): DomainKeys {
  const { metadata, data } = placesOf(domain, epoch, holder)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (bytes.length !== OBJECT_BYTES || view.getUint32(0) !== SECTION_BYTES)
    throw new LifeboatError('corrupt-object', `${metadata.objectKey} does not have the length of domain keys`, {
      details: { object: metadata.objectKey },
      hint: 'Restore this object from a copy of the repository: without it the domain cannot be read.',
    })
  const [metadataKey, nodeIdKey] = halves(openEnvelope(metadata, holder.metadata, bytes.subarray(4, 4 + SECTION_BYTES)))
  if (!holder.data) return { domain, epoch, metadataKey, nodeIdKey }
  const [dataKey, chunkIdKey] = halves(openEnvelope(data, holder.data, bytes.subarray(4 + SECTION_BYTES)))
  return { domain, epoch, metadataKey, nodeIdKey, dataKey, chunkIdKey }
}

/** Copies: a Buffer's own slice() is a view, which would keep the whole section in memory. */
const halves = (section: Uint8Array): [Uint8Array, Uint8Array] => [
  new Uint8Array(section.subarray(0, 32)),
  new Uint8Array(section.subarray(32, 64)),
]

function placesOf(domain: DomainId, epoch: number, { repository }: RepositoryKeys) {
  const objectKey = domainKeysObject(domain, epoch)
  const metadata: EnvelopePlace = { repository, kind: 'domain-metadata', objectKey }
  const data: EnvelopePlace = { repository, kind: 'domain-data', objectKey }
  return { metadata, data }
}
