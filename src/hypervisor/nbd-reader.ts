/** What the capture path needs of an NBD export: to read it, and to ask for its bitmaps. */
import type { BlockReader } from '../block/block-device.ts'
import { dirtyRanges } from '../cbt/ranges.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { NbdClient } from '../nbd/client.ts'
import type { CapturedDisk } from './hypervisor.ts'

export type NbdReader = BlockReader & Pick<NbdClient, 'blockStatus'>

export const bitmapContext = (bitmap: string): string => `qemu:dirty-bitmap:${bitmap}`

/** What the bitmap calls dirty, in order. Throws 'nbd-protocol' where the answer leaves something out. */
export async function readDirtyRanges(
  view: NbdReader,
  bitmap: string,
  options: AbortOptions,
): Promise<readonly Range[]> {
  const ranges = await askDirtyRanges(view, bitmap, options)
  if (ranges) return ranges
  throw new LifeboatError('nbd-protocol', `what the server says of the bitmap ${bitmap} does not cover the disk`, {
    hint: 'Check which program serves this disk, and its version.',
  })
}

function askDirtyRanges(view: NbdReader, bitmap: string, options: AbortOptions): Promise<Range[] | undefined> {
  const whole = { offset: 0, length: view.size }
  return dirtyRanges(view.blockStatus(whole, bitmapContext(bitmap), options), whole)
}

/**
 * What the bitmap calls dirty since its point. Where the server does not offer it, or answers what cannot be, everything is read:
 * a changed byte is never left out.
 */
export async function changesByBitmap(
  view: NbdReader,
  { base, bitmap }: { readonly base: PointId; readonly bitmap: string },
  options: AbortOptions,
): Promise<Pick<CapturedDisk, 'changes' | 'base'>> {
  try {
    const ranges = await askDirtyRanges(view, bitmap, options)
    if (ranges) return { changes: { kind: 'incremental', ranges }, base }
    return { changes: { kind: 'full', reason: 'bitmap-inconsistent' } }
  } catch (error) {
    if (isLifeboatError(error, 'nbd-refused')) return { changes: { kind: 'full', reason: 'bitmap-missing' } }
    throw error
  }
}
