/** What a point's disk takes, as far as its manifest tells it: without a request. */

import { parseNode } from './node-codec.ts'
import type { ManifestDisk } from './repository.ts'
import { chunksBelow, treeGeometry } from './tree-geometry.ts'

/**
 * Bytes that are not known to be zeros: exact for a disk that was built upon no other, else to the reach of one entry of the
 * top list (4 MiB for disks up to 16 GiB with chunks of 64 KiB). Throws 'absurd-object'.
 */
export function allocatedAtMost({ size, chunkSize, top, base, bytesChanged }: ManifestDisk): number {
  const tree = treeGeometry(size, chunkSize)
  const { present } = parseNode(top, tree, tree.topLevel + 1, 0)
  const reached = Math.min(size, present * chunksBelow(tree.topLevel + 1) * chunkSize)
  return base === undefined ? Math.min(reached, bytesChanged) : reached
}
