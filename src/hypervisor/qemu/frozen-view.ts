/** A frozen view as a BlockReader over NBD, and what a failing read says about the capture. */
import type { BlockReader } from '../../block/block-device.ts'
import type { Clock } from '../../core/clock.ts'
import type { AbortOptions } from '../../core/scope.ts'
import { connectNbd } from '../../nbd/client.ts'
import type { NbdReader } from '../nbd-reader.ts'

export type OpenExport = (name: string, contexts: readonly string[], options: AbortOptions) => Promise<NbdReader>

export const openExportsOn =
  (socket: string, clock: Clock): OpenExport =>
  (exportName, contexts, { signal }) =>
    connectNbd({ socket, exportName, contexts: ['base:allocation', ...contexts], clock, signal })

/** The same reader; the first failure that is not the caller's own abort is explained by `explain` before it is thrown. */
export function watchedView(view: BlockReader, explain: (error: unknown) => Promise<unknown>): BlockReader {
  const failing = async (error: unknown, { signal }: AbortOptions) => {
    if (signal?.aborted) return error
    return await explain(error)
  }
  return {
    size: view.size,
    blockSize: view.blockSize,
    async readInto(target, offset, options = {}) {
      try {
        await view.readInto(target, offset, options)
      } catch (error) {
        throw await failing(error, options)
      }
    },
    async *extents(range, options = {}) {
      try {
        yield* view.extents(range, options)
      } catch (error) {
        throw await failing(error, options)
      }
    },
    [Symbol.asyncDispose]: () => view[Symbol.asyncDispose](),
  }
}
