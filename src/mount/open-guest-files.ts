/** A point's guest while it is open, for all who look into its filesystems. */
import { isLifeboatError, type LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileTree } from '../files/file-tree.ts'
import type { GuestFilesystems, OpenGuest, Volume } from '../guest/guest-filesystems.ts'
import type { Use } from './kept-open.ts'
import { type OpenPoint, usedReader } from './open-points.ts'

export class OpenGuestFiles implements AsyncDisposable {
  readonly #filesystems: GuestFilesystems
  readonly #point: Disposable
  /** By volume: why one that looked readable is not. */
  readonly failures = new Map<string, LifeboatError>()

  private constructor(filesystems: GuestFilesystems, point: Disposable) {
    this.#filesystems = filesystems
    this.#point = point
  }

  /** `point` is this one's from now on. */
  static async open(point: Use<OpenPoint>, openGuest: OpenGuest, options: AbortOptions): Promise<OpenGuestFiles> {
    try {
      // The guest does not keep the images: they are closed with the point.
      const disks = point.value.disks.map(name => ({ name, image: usedReader(point.value.image(name), nobody) }))
      return new OpenGuestFiles(await openGuest(disks, options), point)
    } catch (error) {
      point[Symbol.dispose]()
      throw error
    }
  }

  async volumes(options: AbortOptions): Promise<readonly Volume[]> {
    return await this.#filesystems.volumes(options)
  }

  async tree(volume: string, options: AbortOptions): Promise<FileTree> {
    try {
      return await this.#filesystems.open(volume, options)
    } catch (error) {
      if (isLifeboatError(error) && isOfVolume(error)) this.failures.set(volume, error)
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#filesystems[Symbol.asyncDispose]()
    } finally {
      this.#point[Symbol.dispose]()
    }
  }
}

const nobody: Disposable = { [Symbol.dispose]() {} }

export type UseGuest = (options: AbortOptions) => Promise<Use<OpenGuestFiles>>

/** For the time of `work`. */
export async function withGuest<T>(
  useGuest: UseGuest,
  options: AbortOptions,
  work: (guest: OpenGuestFiles) => Promise<T>,
): Promise<T> {
  using use = await useGuest(options)
  return await watched(use, () => work(use.value))
}

/** Where whoever parses the guest is gone, or not to be believed any more, the next one to look gets another. */
export async function watched<T>(use: Use<OpenGuestFiles>, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (isLifeboatError(error) && isOfParser(error)) use.giveUp()
    throw error
  }
}

/** The guest's disk is like that, and will be. */
const isOfVolume = ({ code }: LifeboatError): boolean =>
  code === 'guest-filesystem' || code === 'guest-unsupported' || code === 'guest-locked' || code === 'wrong-guest-key'

const isOfParser = ({ code }: LifeboatError): boolean =>
  code === 'guest-lost' || code === 'guest-protocol' || code === 'appliance-unavailable'
