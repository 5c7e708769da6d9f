/**
 * CBT: which bytes changed since a checkpoint.
 *
 * What it is: the answer of a tracker (QEMU dirty bitmap, qcow2 persistent bitmap, or a scan), and range algebra.
 * What it guarantees: the superset rule: a returned range may hold unchanged bytes; a changed byte is never left out. A
 * tracker that cannot promise that returns 'full' with the reason, which is a value, not an error.
 * What it does not know: how changes are stored or sent.
 */
import type { Range } from '../core/range.ts'

/** The stable words of `disks[].reason`. */
export type FullReason =
  | 'first-backup'
  | 'requested'
  | 'bitmap-missing'
  | 'bitmap-inconsistent'
  | 'bitmap-foreign'
  | 'bitmap-untrue'
  | 'base-gone'
  | 'disk-added'
  | 'disk-resized'

export type ChangeSet =
  | { readonly kind: 'incremental'; readonly ranges: readonly Range[] }
  | { readonly kind: 'full'; readonly reason: FullReason }
