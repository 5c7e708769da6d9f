import { hex } from '../core/ids.ts'
import type { FinishedDisk } from './disk-writer.ts'
import { contentOf, encodeNode, topRoot } from './node-codec.ts'
import { namedRefs } from './node-writer.ts'
import type { ManifestDisk } from './repository.ts'

/** A disk's part of the manifest. All packs have their names by now. `salt`: 16 bytes. */
export function manifestDisk({ request, geometry, reason, stats, top }: FinishedDisk, salt: Uint8Array): ManifestDisk {
  const refs = namedRefs(top)
  const content = contentOf(geometry.topLevel + 1, geometry.chunkSize, refs)
  return {
    name: request.name,
    size: request.size,
    chunkSize: geometry.chunkSize,
    level: geometry.topLevel,
    salt: hex(salt),
    root: hex(topRoot(salt, geometry, content)),
    top: encodeNode(geometry.topLevel + 1, refs),
    ...(request.base ? { base: request.base.point } : {}),
    ...(reason === undefined ? {} : { reason }),
    ...stats,
    description: request.description,
  }
}
