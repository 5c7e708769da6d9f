/** A recovery point over chunk sources in memory. */

import { LifeboatError } from '../../src/core/errors.ts'
import { domainId, leaseId, pointId } from '../../src/core/ids.ts'
import type { ChunkSource, Manifest, ManifestDisk, RecoveryPoint } from '../../src/repository/repository.ts'

export interface MemoryPoint extends RecoveryPoint {
  readonly isOpen: () => boolean
  readonly keptPin: () => boolean
}

export function memoryPoint(
  disks: Readonly<Record<string, ChunkSource>>,
  parts: Partial<Manifest> & { diskDescriptions?: Readonly<Record<string, Record<string, unknown>>> } = {},
): MemoryPoint {
  let open = true
  let kept = false
  const { diskDescriptions = {}, ...rest } = parts
  const manifest: Manifest = {
    point: pointId('00000000000000a1'),
    vm: 'web1',
    takenAt: new Date('2026-11-21T10:00:00Z'),
    sequence: 1,
    kind: 'full',
    consistency: 'crash',
    lease: leaseId('00000000000000b1'),
    domain: domainId('00000000000000c1'),
    host: 'test',
    description: { name: 'web1' },
    omitted: [],
    disks: Object.entries(disks).map(
      ([name, source]): ManifestDisk => ({
        name,
        size: source.size,
        chunkSize: source.chunkSize,
        level: 0,
        salt: '',
        root: '',
        top: new Uint8Array(),
        description: { name, size: source.size, ...diskDescriptions[name] },
        bytesRead: 0,
        bytesChanged: 0,
        bytesNew: 0,
        bytesStored: 0,
        bytesAudited: 0,
      }),
    ),
    ...rest,
  }
  return {
    id: manifest.point,
    key: 'points/web1/20261121T100000Z-00000000000000a1',
    manifest,
    pinned: true,
    pinId: 'feedfeedfeedfeed',
    keepPin: () => {
      kept = true
    },
    disk: name => {
      const source = disks[name]
      if (!source) throw new LifeboatError('no-such-disk', `no disk ${name}`)
      return source
    },
    isOpen: () => open,
    keptPin: () => kept,
    [Symbol.asyncDispose]: async () => {
      open = false
    },
  }
}
