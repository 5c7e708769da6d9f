/** How QEMU keeps the old contents of a disk while the guest goes on writing. Two ways, chosen by what this QEMU can do. */
import type { AbortOptions } from '../../core/scope.ts'
import type { AttachedDisk } from './block-nodes.ts'
import type { JsonObject } from './json.ts'
import type { QmpClient } from './qmp.ts'

export interface FrozenDisk {
  readonly index: number
  readonly disk: AttachedDisk
  /** An empty qcow2 of the disk's size. */
  readonly image: string
}

export interface FreezingMethod {
  readonly name: 'copy-before-write' | 'blockdev-backup'
  /** The guest runs: everything that takes time. Changes nothing for the guest. */
  prepare(qmp: QmpClient, disks: readonly FrozenDisk[], options: AbortOptions): Promise<void>
  /** The guest is paused. Gives the actions that belong into the transaction with the bitmaps. */
  insert(qmp: QmpClient, disks: readonly FrozenDisk[], options: AbortOptions): Promise<readonly JsonObject[]>
  /** The guest runs again: makes the frozen views. */
  expose(qmp: QmpClient, disks: readonly FrozenDisk[], options: AbortOptions): Promise<void>
  /** The node whose contents are the disk at the instant. */
  viewOf(disk: FrozenDisk): string
  /** How `block-export-add` finds a bitmap of the disk's own node. */
  bitmapRef(disk: FrozenDisk, bitmap: string): unknown
}

export const fleeceNode = (index: number): string => `lifeboat-${index}-fleece`
export const filterNode = (index: number): string => `lifeboat-${index}-filter`
export const viewNode = (index: number): string => `lifeboat-${index}-view`
export const jobId = (index: number): string => `lifeboat-${index}-job`
export const exportId = (name: string): string => `lifeboat-${name}-export`
