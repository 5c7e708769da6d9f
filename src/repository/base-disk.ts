/** A disk of a base point, read while the next point is written upon it. */
import { MiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ChunkRef, Manifest, ManifestDisk } from './repository.ts'
import { treeGeometry } from './tree-geometry.ts'
import { TreeReader } from './tree-reader.ts'
import type { WriteContext } from './write-context.ts'

export interface BaseDisk extends AsyncDisposable {
  readonly tree: TreeReader
  /** The whole chunk, authenticated, its id recomputed. */
  readChunk(ref: ChunkRef, options: AbortOptions): Promise<Uint8Array>
}

/** A writer passes through the tree once, in order: a window's leaves and the path to them are enough. */
const NODE_CACHE_BYTES = 8 * MiB

export function openBaseDisk({ keyring, records }: WriteContext, { domain }: Manifest, disk: ManifestDisk): BaseDisk {
  const geometry = treeGeometry(disk.size, disk.chunkSize)
  const tree = new TreeReader({ domain, geometry, top: disk.top, keyring, records, cacheBytes: NODE_CACHE_BYTES })
  return {
    tree,
    async readChunk(ref, options) {
      const settled = Promise.withResolvers<Uint8Array>()
      settled.promise.catch(() => {})
      const receiver = {
        deliver: (_: ChunkRef, content: Uint8Array) => settled.resolve(content),
        fail: (_: ChunkRef, error: unknown) => settled.reject(error),
      }
      const request = { kind: 'data', domain, chunkSize: disk.chunkSize, checkIds: 'all' } as const
      await records.read(request, [ref], receiver, options)
      return await settled.promise
    },
    [Symbol.asyncDispose]: () => tree[Symbol.asyncDispose](),
  }
}
