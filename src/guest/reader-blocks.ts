/** Answers the reader's requests for bytes of the point's disks, as native/guest/blocks.h has them. It is not believed: what it must not ask ends it. */
import { constants } from 'node:os'
import type { Duplex } from 'node:stream'
import { limits } from '../core/limits.ts'
import { Slots } from '../core/slots.ts'
import type { GuestDisk } from './guest-filesystems.ts'

const REQUEST_BYTES = 20
const ANSWER_HEAD = 12
const ANSWER_LARGE = ANSWER_HEAD + limits.guestReadBytes
const LARGE = limits.guestReadBytes / 8

interface Asked {
  readonly tag: number
  readonly disk: GuestDisk
  readonly offset: number
  readonly length: number
}

export class ReaderBlocks {
  readonly #socket: Duplex
  readonly #disks: readonly GuestDisk[]
  readonly #refuse: (why: string) => void
  readonly #slots = new Slots(limits.guestReaderBlocksInFlight)
  readonly #closing = new AbortController()
  readonly #working = new Set<Promise<void>>()
  /** Of large answers while there are any under way: fresh memory for each would cost more than filling it. */
  #free: Buffer[] = []
  #rest: Buffer = Buffer.alloc(0)

  /** `refuse` is called where a request is none that the reader may make. */
  constructor(socket: Duplex, disks: readonly GuestDisk[], refuse: (why: string) => void) {
    this.#socket = socket
    this.#disks = disks
    this.#refuse = refuse
    socket.on('data', (bytes: Buffer) => this.#received(bytes))
    // It ends with its process, which is watched.
    socket.on('error', () => this.#closing.abort())
    socket.on('close', () => this.#closing.abort())
  }

  /** When nothing reads the disks any more. */
  async close(): Promise<void> {
    this.#closing.abort()
    this.#socket.destroy()
    await Promise.all(this.#working)
  }

  #received(bytes: Buffer): void {
    const all = this.#rest.length > 0 ? Buffer.concat([this.#rest, bytes]) : bytes
    let at = 0
    for (; at + REQUEST_BYTES <= all.length; at += REQUEST_BYTES) this.#begin(all.subarray(at, at + REQUEST_BYTES))
    this.#rest = Buffer.from(all.subarray(at))
  }

  #begin(request: Buffer): void {
    if (this.#closing.signal.aborted) return
    const asked = this.#parse(request)
    if (asked === undefined || this.#working.size >= limits.guestReaderBlocksWaiting) {
      this.#closing.abort()
      this.#refuse(asked ? 'asked for too much at once' : 'asked for bytes that no disk has')
      return
    }
    const work: Promise<void> = this.#answer(asked).finally(() => {
      this.#working.delete(work)
      if (this.#working.size === 0) this.#free = []
    })
    this.#working.add(work)
  }

  #parse(request: Buffer): Asked | undefined {
    const disk = this.#disks[request.readUInt32LE(4)]
    const offset = Number(request.readBigUInt64LE(8))
    const length = request.readUInt32LE(16)
    if (disk === undefined || length === 0 || length > limits.guestReadBytes) return undefined
    if (!Number.isSafeInteger(offset) || offset > disk.image.size - length) return undefined
    return { tag: request.readUInt32LE(0), disk, offset, length }
  }

  async #answer({ tag, disk, offset, length }: Asked): Promise<void> {
    const { signal } = this.#closing
    try {
      await this.#slots.take(signal)
    } catch {
      return
    }
    try {
      const memory = this.#memoryFor(length)
      const answer = memory.subarray(0, ANSWER_HEAD + length)
      const errno = await disk.image.readInto(answer.subarray(ANSWER_HEAD), offset, { signal }).then(
        () => 0,
        () => constants.errno.EIO,
      )
      if (signal.aborted) return
      answer.writeUInt32LE(tag, 0)
      answer.writeUInt32LE(errno, 4)
      answer.writeUInt32LE(errno === 0 ? length : 0, 8)
      await this.#write(errno === 0 ? answer : answer.subarray(0, ANSWER_HEAD))
      // After a failure or an abort somebody may still write into it.
      if (errno === 0 && !signal.aborted && memory.length === ANSWER_LARGE) this.#free.push(memory)
    } finally {
      this.#slots.give()
    }
  }

  #memoryFor(length: number): Buffer {
    if (length < LARGE) return Buffer.allocUnsafeSlow(ANSWER_HEAD + length)
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(ANSWER_LARGE)
  }

  /** When it was taken, so that a reader that does not listen holds no more than its slots. */
  #write(bytes: Buffer): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const { signal } = this.#closing
    const done = () => {
      signal.removeEventListener('abort', done)
      resolve()
    }
    signal.addEventListener('abort', done)
    this.#socket.write(bytes, done)
    return promise
  }
}
