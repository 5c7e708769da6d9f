/** A manifest as a stored object: sealed for its key, and no other point's under it. */
import { createHash } from 'node:crypto'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { ENVELOPE_OVERHEAD, openEnvelope, sealEnvelope } from '../crypto/envelope.ts'
import { authentic } from './authentic.ts'
import { getBounded } from './control-object.ts'
import { encodeManifest, parseManifest } from './manifest-codec.ts'
import { pointKey } from './object-keys.ts'
import type { Manifest } from './repository.ts'
import type { WriteContext } from './write-context.ts'

type Sealer = Pick<WriteContext, 'store' | 'keys' | 'random'>

export interface StoredManifest {
  readonly key: string
  readonly manifest: Manifest
  /** Hex of the SHA-256 of the object as stored: what the next point names as its `previous`. */
  readonly digest: string
}

const placeOf = ({ keys }: Pick<Sealer, 'keys'>, key: string) =>
  ({ repository: keys.repository, kind: 'manifest', objectKey: key }) as const

/** Undefined where it is absent; throws an integrity error where it is not what its key says. */
export async function readStoredManifest(
  source: Pick<Sealer, 'store' | 'keys'>,
  key: string,
  options: AbortOptions = {},
): Promise<StoredManifest | undefined> {
  return await authentic(source.store, key, store => readOne({ ...source, store }, key, options), options)
}

async function readOne(
  source: Pick<Sealer, 'store' | 'keys'>,
  key: string,
  options: AbortOptions,
): Promise<StoredManifest | undefined> {
  const bytes = await getBounded(source.store, key, limits.manifestBytesMax + ENVELOPE_OVERHEAD, options)
  if (!bytes) return undefined
  const manifest = parseManifest(openEnvelope(placeOf(source, key), source.keys.metadata, bytes), key)
  if (pointKey(manifest.vm, manifest.takenAt, manifest.point) !== key)
    throw new LifeboatError('absurd-object', `${key} is the manifest of another point`, { details: { object: key } })
  return { key, manifest, digest: createHash('sha256').update(bytes).digest('hex') }
}

/** The object's bytes. */
export const sealManifest = (sealer: Sealer, key: string, manifest: Manifest): Uint8Array =>
  sealEnvelope(placeOf(sealer, key), sealer.keys.metadata, encodeManifest(manifest), sealer.random)
