/**
 * The quick path into a guest's filesystems: a sandboxed process that parses ext2, ext3, ext4, NTFS, FAT and exFAT at once. Other
 * volumes say that they need the appliance. When the process dies of what it reads, the next call has another one, for some time.
 */
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileTree } from '../files/file-tree.ts'
import type { GuestDisk, GuestFilesystems, OpenGuest, Volume } from './guest-filesystems.ts'
import { READER_PROGRAM } from './guest-programs.ts'
import { type ReaderProcess, startReader } from './reader-process.ts'
import { remoteGuests } from './remote-tree.ts'
import { RestartedParser } from './restarted-parser.ts'

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

class ReaderGuests implements GuestFilesystems {
  readonly #reader: RestartedParser<ReaderProcess>

  constructor(
    { clock, treePrefix, program = READER_PROGRAM, onStart }: ReaderGuestsOptions,
    disks: readonly GuestDisk[],
  ) {
    const prefix = treePrefix()
    this.#reader = new RestartedParser({
      startsMax: limits.guestReaderStarts,
      clock,
      async start() {
        const reader = startReader(program, disks)
        onStart?.(reader.pid)
        return reader
      },
      connect: ({ protocol }) => remoteGuests({ stream: protocol, clock, treePrefix: prefix }),
      died,
      diedTooOften,
    })
  }

  async start(options: AbortOptions): Promise<void> {
    await this.#reader.start(options)
  }

  async volumes(options: AbortOptions = {}): Promise<readonly Volume[]> {
    return await this.#reader.use(options, guests => guests.volumes(options))
  }

  async unlock(volume: string): Promise<void> {
    throw new LifeboatError('guest-unsupported', `the reader cannot unlock ${volume}`, {
      details: { volume },
      hint: 'The appliance unlocks it.',
    })
  }

  async open(volume: string, options: AbortOptions = {}): Promise<FileTree> {
    return await this.#reader.use(options, guests => guests.open(volume, options))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reader[Symbol.asyncDispose]()
  }
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
