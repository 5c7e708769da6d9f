/** A point by somebody who holds all keys and means harm: every seal is right, what lies under it is not. */
import { hex, type PackId, packId, pointId } from '../../src/core/ids.ts'
import { recordAadPrefix } from '../../src/crypto/aad.ts'
import { slotKey } from '../../src/crypto/derive.ts'
import { sealEnvelope } from '../../src/crypto/envelope.ts'
import { chunkId, nodeId } from '../../src/crypto/ids.ts'
import { RECORD_TAG, sealRecord } from '../../src/native/record.ts'
import { encodeManifest } from '../../src/repository/manifest-codec.ts'
import { contentOf, encodeNode, topRoot } from '../../src/repository/node-codec.ts'
import { packKey, pointKey } from '../../src/repository/object-keys.ts'
import type { PackKind } from '../../src/repository/pack-codec.ts'
import type { ChunkRef, Manifest, PointSummary } from '../../src/repository/repository.ts'
import { treeGeometry } from '../../src/repository/tree-geometry.ts'
import type { RepositoryFixture } from './repository-fixture.ts'

export type Json = Record<string, unknown>

export interface Malice {
  /** Plaintext of the chunk's record: codec u8, length u24, payload. */
  readonly chunk?: Uint8Array
  /** The leaf, given its proper bytes and where it will lie. */
  readonly leaf?: (bytes: Uint8Array, place: { pack: PackId; slot: number }) => Uint8Array
  /** Plaintext of the leaf's record instead of one that holds the leaf. */
  readonly leafRecord?: Uint8Array
  readonly manifest?: (json: Json) => Json | string
  /** Under another name than its own. */
  readonly vm?: string
}

export const plaintextOf = (codec: number, length: number, payload: Uint8Array): Uint8Array =>
  Buffer.concat([Uint8Array.of(codec, length >>> 16, length >>> 8, length), payload])

export interface MaliciousPoint {
  readonly summary: PointSummary
  readonly data: string
  readonly meta: string
}

/** One disk of one chunk: a manifest, a leaf, a chunk. */
export async function maliciousPoint(fixture: RepositoryFixture, malice: Malice): Promise<MaliciousPoint> {
  const { repository, store, random } = fixture
  const { keyring } = repository.reading
  const domain = repository.domain
  const keys = await keyring.domainKeys(domain, 0)
  const { chunkSize } = repository
  const [dataPack, metaPack] = [0, 1].map(() => packId(`00${hex(random(15))}`)) as [PackId, PackId]

  const put = async (kind: PackKind, pack: PackId, id: Uint8Array, plaintext: Uint8Array): Promise<ChunkRef> => {
    const stored = Buffer.concat([plaintext, new Uint8Array(RECORD_TAG)])
    const key = slotKey(kind === 'data' ? keys.dataKey! : keys.metadataKey, pack)
    const aadPrefix = recordAadPrefix({ repository: repository.id, domain, kind, pack })
    sealRecord(stored, { slot: 0, id, key, aadPrefix })
    await store.put(packKey(kind, domain, pack), [stored])
    return { id, pack, slot: 0, offset: 0, length: stored.length }
  }

  const content = random(chunkSize)
  const chunk = malice.chunk ?? plaintextOf(0, chunkSize, content)
  const chunkRef = await put('data', dataPack, chunkId(keys.chunkIdKey!, content), chunk)
  const claimed = { ...chunkRef, length: Math.min(chunkRef.length, chunkSize + 20) }
  const entries = Array.from({ length: 64 }, (_, n) => (n === 0 ? claimed : undefined))
  const leafId = nodeId(keys.nodeIdKey, contentOf(0, chunkSize, entries))
  const proper = encodeNode(0, entries)
  const leaf = malice.leaf?.(proper, { pack: metaPack, slot: 0 }) ?? proper
  const leafRef = await put('meta', metaPack, leafId, malice.leafRecord ?? plaintextOf(0, leaf.length, leaf))

  const top = encodeNode(1, [leafRef])
  const salt = new Uint8Array(16)
  const root = topRoot(salt, treeGeometry(chunkSize, chunkSize), contentOf(1, chunkSize, [leafRef]) as never)
  const point = pointId(hex(random(8)))
  const takenAt = new Date('2026-12-01T00:00:00Z')
  const stats = { bytesRead: 0, bytesChanged: 0, bytesNew: 0, bytesStored: 0, bytesAudited: 0 }
  const manifest: Manifest = {
    point,
    vm: malice.vm ?? 'web',
    takenAt,
    sequence: 9,
    kind: 'full',
    consistency: 'crash',
    lease: hex(random(8)) as Manifest['lease'],
    domain,
    host: 'evil',
    description: {},
    disks: [
      {
        name: 'vda',
        size: chunkSize,
        chunkSize,
        level: 0,
        salt: hex(salt),
        root: hex(root),
        top,
        description: {},
        ...stats,
      },
    ],
    omitted: [],
  }
  const objectKey = pointKey('web', takenAt, point)
  const place = { repository: repository.id, kind: 'manifest', objectKey } as const
  const bytes = malice.manifest ? edited(encodeManifest(manifest), malice.manifest) : encodeManifest(manifest)
  await store.put(objectKey, [sealEnvelope(place, keyring.repository.metadata, bytes, random)])
  return {
    summary: { id: point, vm: 'web', takenAt, key: objectKey, state: 'committed' },
    data: packKey('data', domain, dataPack),
    meta: packKey('meta', domain, metaPack),
  }
}

/** The manifest's JSON changed, its blobs left where they are. */
function edited(bytes: Uint8Array, change: (json: Json) => Json | string): Uint8Array {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0)
  const changed = change(JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length))))
  const text = Buffer.from(typeof changed === 'string' ? changed : JSON.stringify(changed))
  const head = Buffer.alloc(4)
  head.writeUInt32BE(text.length)
  return Buffer.concat([head, text, bytes.subarray(4 + length)])
}
