/** A manifest's plaintext (docs/repository-format.md, section 6): encode, and the one parser from bytes to `Manifest`. */
import { LifeboatError } from '../core/errors.ts'
import { domainId, leaseId, pointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { JsonFields, parseJsonObject } from './json-fields.ts'
import type { Consistency, Manifest, ManifestDisk, PointKind } from './repository.ts'
import { isChunkSize, treeGeometry } from './tree-geometry.ts'

const FORMAT = 1
const KINDS: readonly PointKind[] = ['full', 'incremental', 'differential']
const CONSISTENCIES: readonly Consistency[] = ['application', 'filesystem', 'crash']
const NAME_MAX = 255
/** A bus full of removable devices is still far below. */
const OMITTED_MAX = 1024

export function encodeManifest(manifest: Manifest): Uint8Array {
  const blobs: Uint8Array[] = []
  let blobBytes = 0
  const place = (blob: Uint8Array): readonly [number, number] => {
    blobs.push(blob)
    blobBytes += blob.length
    return [blobBytes - blob.length, blob.length]
  }
  const { takenAt, firmwareVariables, disks, omitted, ...rest } = manifest
  const json = JSON.stringify({
    format: FORMAT,
    ...rest,
    takenAt: takenAt.toISOString(),
    firmwareVariables: firmwareVariables && place(firmwareVariables),
    disks: disks.map(({ top, ...disk }) => ({ ...disk, top: place(top) })),
    omitted,
  })
  const text = new TextEncoder().encode(json)
  const bytes = new Uint8Array(4 + text.length + blobBytes)
  new DataView(bytes.buffer).setUint32(0, text.length)
  bytes.set(text, 4)
  let at = 4 + text.length
  for (const blob of blobs) {
    bytes.set(blob, at)
    at += blob.length
  }
  if (bytes.length > limits.manifestBytesMax)
    throw new LifeboatError('usage', `the manifest of ${manifest.vm} would take ${bytes.length} bytes`, {
      hint: 'Use a larger chunk size, or back up fewer disks in one point.',
    })
  return bytes
}

/** `object` is the manifest's key, for messages. The blobs are views of `bytes`, which is kept. */
export function parseManifest(bytes: Uint8Array, object: string): Manifest {
  const absurd = (why: string) => new LifeboatError('absurd-object', `${object} ${why}`, { details: { object } })
  if (bytes.length > limits.manifestBytesMax || bytes.length < 4) throw absurd('is too long or too short')
  const jsonLength = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0)
  if (jsonLength > bytes.length - 4) throw absurd('ends before its description does')
  const fields = new JsonFields(parseJsonObject(bytes.subarray(4, 4 + jsonLength), object), object)
  const format = fields.count('format')
  if (format > FORMAT)
    throw new LifeboatError('newer-format', `${object} has format ${format}; this program reads ${FORMAT}`, {
      hint: 'Use a newer Lifeboat.',
    })
  const blobs = bytes.subarray(4 + jsonLength)
  const names = new Set<string>()
  const disks = fields.list('disks', limits.disksPerPointMax).map(disk => {
    const parsed = parseDisk(disk, blobs)
    if (names.has(parsed.name)) throw absurd(`has two disks named '${parsed.name}'`)
    names.add(parsed.name)
    return parsed
  })
  return {
    point: pointId(fields.hex('point', 8)),
    vm: fields.text('vm', NAME_MAX),
    takenAt: fields.date('takenAt'),
    sequence: fields.count('sequence'),
    ...(fields.has('previous') ? { previous: parsePrevious(fields.fields('previous')) } : {}),
    ...(fields.has('adoptedFrom') ? { adoptedFrom: pointId(fields.hex('adoptedFrom', 8)) } : {}),
    kind: fields.oneOf('kind', KINDS),
    consistency: fields.oneOf('consistency', CONSISTENCIES),
    lease: leaseId(fields.hex('lease', 8)),
    domain: domainId(fields.hex('domain', 8)),
    host: fields.text('host'),
    description: fields.object('description'),
    ...(fields.has('firmwareVariables') ? { firmwareVariables: blobAt(fields, 'firmwareVariables', blobs) } : {}),
    disks,
    omitted: fields
      .list('omitted', OMITTED_MAX)
      .map(item => ({ name: item.text('name'), reason: item.text('reason') })),
  }
}

const parsePrevious = (fields: JsonFields) => ({
  point: pointId(fields.hex('point', 8)),
  digest: fields.hex('digest', 32),
})

function parseDisk(disk: JsonFields, blobs: Uint8Array): ManifestDisk {
  const size = disk.count('size', limits.diskSizeMax)
  const chunkSize = disk.count('chunkSize', limits.chunkSizeMax)
  if (!isChunkSize(chunkSize)) throw disk.absurd('chunkSize')
  const level = disk.count('level')
  if (level !== treeGeometry(size, chunkSize).topLevel) throw disk.absurd('level')
  const name = disk.text('name', NAME_MAX)
  if (name.length === 0) throw disk.absurd('name')
  return {
    name,
    size,
    chunkSize,
    level,
    salt: disk.hex('salt', 16),
    root: disk.hex('root', 32),
    top: blobAt(disk, 'top', blobs),
    ...(disk.has('base') ? { base: pointId(disk.hex('base', 8)) } : {}),
    ...(disk.has('reason') ? { reason: disk.text('reason') } : {}),
    bytesRead: disk.count('bytesRead'),
    bytesChanged: disk.count('bytesChanged'),
    bytesNew: disk.count('bytesNew'),
    bytesStored: disk.count('bytesStored'),
    bytesAudited: disk.count('bytesAudited'),
    description: disk.object('description'),
  }
}

/** A view of the blob at [offset, length] from the end of the JSON. */
function blobAt(fields: JsonFields, name: string, blobs: Uint8Array): Uint8Array {
  const [offset, length, ...more] = fields.counts(name, 2)
  if (offset === undefined || length === undefined || more.length > 0 || offset + length > blobs.length)
    throw fields.absurd(name)
  return blobs.subarray(offset, offset + length)
}
