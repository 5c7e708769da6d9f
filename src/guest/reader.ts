/**
 * The quick path into a guest's filesystems: a sandboxed process that parses ext2, ext3, ext4, NTFS, FAT and exFAT at once. Other
 * volumes say that they need the appliance. When the process dies of what it reads, the next call has another one, for some time.
 */
import { abortable } from '../core/abortable.ts'
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileTree } from '../files/file-tree.ts'
import type { GuestDisk, GuestFilesystems, OpenGuest, Volume } from './guest-filesystems.ts'
import { READER_PROGRAM } from './guest-programs.ts'
import { type ReaderProcess, startReader } from './reader-process.ts'
import { type RemoteGuests, remoteGuests } from './remote-tree.ts'

export interface ReaderGuestsOptions {
  readonly clock: Clock
  /** Names the trees of one guest, another one for each. */
  readonly treePrefix: () => string
  /** Another one than the set-up built, for tests. */
  readonly program?: string
  /** Told of each process, for tests. */
  readonly onStart?: (pid: number | undefined) => void
}

/** Throws 'tool-missing' where the set-up could not build it, 'guest-lost' where the sandbox cannot be built. */
export const readerGuests =
  (given: ReaderGuestsOptions): OpenGuest =>
  async (disks, options = {}) => {
    const guests = new ReaderGuests(given, disks)
    try {
      await guests.start(options)
      return guests
    } catch (error) {
      await guests[Symbol.asyncDispose]()
      throw error
    }
  }

interface Running {
  readonly process: ReaderProcess
  readonly guests: RemoteGuests
}

class ReaderGuests implements GuestFilesystems {
  readonly #given: ReaderGuestsOptions
  readonly #disks: readonly GuestDisk[]
  readonly #treePrefix: string
  #running: Promise<Running> | undefined
  #starts = 0
  #isClosed = false

  constructor(given: ReaderGuestsOptions, disks: readonly GuestDisk[]) {
    this.#given = given
    this.#disks = disks
    this.#treePrefix = given.treePrefix()
  }

  async start(options: AbortOptions): Promise<void> {
    await this.#alive(options)
  }

  async volumes(options: AbortOptions = {}): Promise<readonly Volume[]> {
    return await this.#told(options, guests => guests.volumes(options))
  }

  async unlock(volume: string): Promise<void> {
    throw new LifeboatError('guest-unsupported', `the reader cannot unlock ${volume}`, {
      details: { volume },
      hint: 'The appliance unlocks it.',
    })
  }

  async open(volume: string, options: AbortOptions = {}): Promise<FileTree> {
    return await this.#told(options, guests => guests.open(volume, options))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    const running = await this.#running?.catch(() => undefined)
    if (running) await end(running)
  }

  /** A connection that was lost says how its process ended. */
  async #told<T>(options: AbortOptions, work: (guests: RemoteGuests) => Promise<T>): Promise<T> {
    const running = await this.#alive(options)
    try {
      return await work(running.guests)
    } catch (error) {
      if (!isLifeboatError(error, 'guest-lost') || this.#isClosed) throw error
      await end(running)
      throw died(await running.process.ended, error)
    }
  }

  async #alive(options: AbortOptions): Promise<Running> {
    for (;;) {
      if (this.#isClosed) throw new LifeboatError('interrupted', "the guest's filesystems were closed")
      this.#running ??= this.#start()
      const starting = this.#running
      const running = await abortable(starting, options)
      if (running.guests.isAlive) return running
      // Of those who find it dead the first one lets the next start.
      await end(running)
      if (this.#running === starting) this.#running = undefined
    }
  }

  /** Owned by all who wait for it: one who leaves does not stop it. */
  #start(): Promise<Running> {
    const starting = this.#startNow()
    starting.catch(() => {
      if (this.#running === starting) this.#running = undefined
    })
    return starting
  }

  async #startNow(): Promise<Running> {
    if (this.#starts >= limits.guestReaderStarts) throw diedTooOften(this.#starts)
    this.#starts++
    const { clock, program = READER_PROGRAM, onStart } = this.#given
    const process = startReader(program, this.#disks)
    onStart?.(process.pid)
    try {
      const stream = process.protocol
      const guests = await remoteGuests({ stream, clock, treePrefix: this.#treePrefix })
      return { process, guests }
    } catch (error) {
      await process[Symbol.asyncDispose]()
      throw isLifeboatError(error, 'guest-lost') ? died(await process.ended, error) : error
    }
  }
}

async function end({ guests, process }: Running): Promise<void> {
  await guests[Symbol.asyncDispose]()
  await process[Symbol.asyncDispose]()
}

const died = (how: string, cause: unknown): LifeboatError =>
  new LifeboatError('guest-lost', `the process that reads the guest's filesystems ${how}`, {
    retry: 'transient',
    hint: 'The filesystem may be damaged or hostile. Try again: another process is started; else boot the point and copy from there.',
    cause,
  })

const diedTooOften = (starts: number): LifeboatError =>
  new LifeboatError('guest-lost', `the guest's filesystems ended ${starts} processes that read them`, {
    hint: 'They are damaged or hostile: boot the point in a network of its own and copy from there, or take an older point.',
  })
