/** Why a frozen view is no longer one. The first reason counts, and is told to whoever reads. */
import { LifeboatError } from '../../core/errors.ts'
import { MiB } from '../../core/limits.ts'
import { freeBytes } from './fleecing.ts'
import type { QmpClient } from './qmp.ts'

/** Less free space than this next to a broken view: that is why. */
const FULL_BELOW = 1 * MiB

export class Breakage {
  readonly broken: Promise<never>
  readonly #reject: (error: LifeboatError) => void
  readonly #folder: string
  readonly #qmp: QmpClient
  #reason: LifeboatError | undefined

  constructor({ qmp, folder }: { readonly qmp: QmpClient; readonly folder: string }) {
    const { promise, reject } = Promise.withResolvers<never>()
    promise.catch(() => undefined)
    this.broken = promise
    this.#reject = reject
    this.#folder = folder
    this.#qmp = qmp
    qmp.onClosed(error => this.#break(error))
  }

  /** The fleecing disk took no more. */
  full(cause?: unknown): void {
    this.#break(fleecingFull(this.#folder, cause))
  }

  /**
   * With `break-snapshot` QEMU says nothing when a view breaks: reading it fails, with EINVAL. The reason is looked for
   * where it may be seen: the connection, the room beside the fleecing image.
   */
  async explain(error: unknown): Promise<unknown> {
    // The NBD connection may tell of QEMU's end before the QMP connection does: asking shows it.
    if (!this.#reason) await this.#qmp.execute('query-status').catch(() => undefined)
    if (this.#reason) return this.#reason
    const free = await freeBytes(this.#folder).catch(() => 0)
    const reason = free < FULL_BELOW ? fleecingFull(this.#folder, error) : snapshotBroken(error)
    this.#break(reason)
    return this.#reason ?? reason
  }

  #break(reason: LifeboatError): void {
    this.#reason ??= reason
    this.#reject(this.#reason)
  }
}

const fleecingFull = (folder: string, cause?: unknown) =>
  new LifeboatError(
    'fleecing-full',
    'the fleecing disk is full: the guest overwrote more than it can hold; the guest goes on unharmed',
    {
      details: { object: folder },
      hint: 'Make room there, name a larger folder with --fleecing-dir, or back up when the guest writes less.',
      cause,
    },
  )

const snapshotBroken = (cause: unknown) =>
  new LifeboatError('snapshot-broken', 'the frozen view of a disk broke; the guest goes on unharmed', {
    hint: 'The fleecing image could not be written, or too slowly. See the log of QEMU and the disk under --fleecing-dir, then run the backup again.',
    cause,
  })
