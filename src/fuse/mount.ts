/** A tree as a folder of this host: mounted, served until somebody unmounts it or it is disposed. */
import { writeFile } from 'node:fs/promises'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { KiB, limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, Statfs } from '../files/file-tree.ts'
import { fuseDevice } from '../native/fuse-device.ts'
import { type ServedTree, serveTree } from './fuse-server.ts'
import { type MountWatch, mountFuse, unmountFuse, watchOverMount } from './fusermount.ts'
import { checkMountPoint } from './mount-point.ts'
import { mountUsers } from './mount-users.ts'
import { mounts } from './mountinfo.ts'

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
  const { signal, allowOther = false, fsName } = options
  const mountPoint = await checkMountPoint(options.mountPoint, { signal })
  const watch = watchOverMount(mountPoint)
  try {
    const device = fuseDevice(await mountFuse({ mountPoint, fsName, allowOther, signal }))
    const served = serveTree({ ...options, device, acls: allowOther ? 'enforced' : isRoot() ? 'kept' : undefined })
    const mount = new Mount(mountPoint, served, watch, options)
    try {
      await mount.begin(options)
    } catch (error) {
      await mount[Symbol.asyncDispose]()
      throw error
    }
    return mount
  } catch (error) {
    watch.end()
    throw error
  }
}

const isRoot = (): boolean => process.getuid?.() === 0

class Mount implements MountedTree {
  readonly mountPoint: string
  readonly ended: Promise<void>
  readonly #served: ServedTree
  readonly #watch: MountWatch
  readonly #clock: Clock
  readonly #trouble: (message: string, error?: unknown) => void
  #unmounting: Promise<void> | undefined

  constructor(mountPoint: string, served: ServedTree, watch: MountWatch, { clock, onTrouble }: MountOptions) {
    this.mountPoint = mountPoint
    this.#served = served
    this.#watch = watch
    this.#clock = clock
    this.#trouble = onTrouble ?? (() => {})
    this.ended = this.#end()
    // Whoever only disposes it need not look.
    this.ended.catch(() => {})
  }

  async begin({ signal }: AbortOptions): Promise<void> {
    signal?.addEventListener('abort', () => void this[Symbol.asyncDispose](), { once: true })
    signal?.throwIfAborted()
    await this.#within(this.#served.ready, limits.fuseMountMs)
    const device = (await mounts()).findLast(({ mountPoint }) => mountPoint === this.mountPoint)?.device
    if (device === undefined) return
    this.#watch.mounted(device)
    await raiseReadAhead(device)
  }

  /** Unmounting comes first: a process that closed the device while the mount stands would leave a dead one. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#unmounting ??= this.#unmount()
    return this.#unmounting
  }

  async #unmount(): Promise<void> {
    const against = await unmountFuse(this.mountPoint)
    // Where a mount namespace of somebody else still has it, the kernel never says that it is gone.
    if (against === undefined) await this.#within(this.#served.ended, limits.fuseUnmountMs).catch(() => {})
    else if (await this.#isMounted()) await this.#detach()
    await this.#served[Symbol.asyncDispose]()
    await this.ended.catch(() => {})
  }

  async #detach(): Promise<void> {
    const users = await mountUsers(this.mountPoint).catch(() => [])
    this.#trouble(
      `${this.mountPoint} was unmounted while it was in use${users.length > 0 ? `: ${users.join(', ')}` : ''}`,
    )
    const against = await unmountFuse(this.mountPoint, { lazy: true })
    if (against !== undefined) this.#trouble(`${this.mountPoint} was not unmounted: ${against}`)
  }

  async #isMounted(): Promise<boolean> {
    return (await mounts()).some(({ mountPoint }) => mountPoint === this.mountPoint)
  }

  /** However it came: nothing is left behind. */
  async #end(): Promise<void> {
    try {
      await this.#served.ended
    } finally {
      if (this.#unmounting === undefined && (await this.#isMounted()))
        await unmountFuse(this.mountPoint, { lazy: true })
      this.#watch.end()
    }
  }

  async #within<T>(promise: Promise<T>, ms: number): Promise<T> {
    const enough = new AbortController()
    const late = this.#clock.sleep(ms, { signal: enough.signal }).then(() => {
      throw new LifeboatError('fuse-failed', `The kernel did not answer in ${ms} ms at ${this.mountPoint}`, {
        details: { object: this.mountPoint },
        hint: 'Unmount what is there (`fusermount3 -uz`), and mount again.',
      })
    })
    try {
      return await Promise.race([promise, late])
    } finally {
      enough.abort()
      late.catch(() => {})
    }
  }
}

/** Buffered reads in order come in pieces as large as this; only root may raise it from 128 KiB, and it works without. */
async function raiseReadAhead(device: string): Promise<void> {
  await writeFile(`/sys/class/bdi/${device}/read_ahead_kb`, `${limits.fuseReadAheadBytes / KiB}`).catch(() => {})
}
