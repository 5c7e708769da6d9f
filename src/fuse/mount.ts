/** A tree as a folder of this host: mounted, served until somebody unmounts it or it is disposed. */
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, Statfs } from '../files/file-tree.ts'

export interface MountOptions extends AbortOptions {
  readonly root: DirectoryNode
  /** An empty directory of this host. */
  readonly mountPoint: string
  /** Other users may look, as far as modes and ACLs in the tree let them; without, only who mounts, and everything. */
  readonly allowOther?: boolean
  /** The first column of `df`. */
  readonly fsName: string
  readonly statfs?: (options?: AbortOptions) => Promise<Statfs>
  readonly clock: Clock
  /** What went wrong and who asked got an errno for, or who held the mount when it was taken away: for the log. */
  readonly onTrouble?: (message: string, error?: unknown) => void
}

export interface MountedTree extends AsyncDisposable {
  /** Where it is, with links resolved. */
  readonly mountPoint: string
  /** Settled when it is served no longer: unmounted by somebody, or disposed. Rejects where the kernel's connection failed. */
  readonly ended: Promise<void>
  /** Unmounts. Where files are in use it is detached all the same, and their users get errors. Never hangs. */
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Resolves when the kernel has accepted the mount. `signal` ends the attempt, and later the mount. No call of this process may
 * touch what is below the mount point while it is served: it would wait for itself.
 */
export async function mountTree(options: MountOptions): Promise<MountedTree> {
  throw new LifeboatError('internal', `${options.mountPoint} is not mounted: the server is not there yet`)
}
