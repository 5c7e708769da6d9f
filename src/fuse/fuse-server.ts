/**
 * FUSE: any tree of files as a filesystem of this host.
 *
 * What it is: the kernel's protocol on /dev/fuse (7.31 or later) in one class, `FuseServer`, and `mountTree`, which gets the
 * device by mounting. Requests are read and answered on this thread.
 * What it guarantees: all requests are under way at once, and each is answered, with what the tree said or an errno; what cannot
 * change is told once, and the kernel keeps it; nothing is ever written (EROFS). When the device is closed everybody who waits
 * gets an error, so that nobody hangs.
 * What it does not know: repositories, guests, and where a tree's bytes come from.
 */
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, Statfs } from '../files/file-tree.ts'
import type { FuseDevice } from '../native/fuse-device.ts'
import * as C from './constants.ts'
import { E, errnoOf, Refusal } from './errno.ts'
import { negotiate } from './negotiation.ts'
import { type Acls, Operations, type Request } from './operations.ts'
import { Replies } from './replies.ts'
import { RequestsInFlight } from './requests-in-flight.ts'
import { encodeInit, getUint64, parseHeader, parseInit } from './wire.ts'

export interface ServeOptions {
  readonly root: DirectoryNode
  /** The server's from now on. */
  readonly device: FuseDevice
  readonly statfs?: (options?: AbortOptions) => Promise<Statfs>
  readonly acls?: Acls
  readonly clock: Clock
  readonly onTrouble?: (message: string, error?: unknown) => void
}

export interface ServedTree extends AsyncDisposable {
  /** The kernel and we speak with each other. Rejects where its version is too old, or the mount went away before. */
  readonly ready: Promise<void>
  /** Somebody unmounted it, or it was disposed. Rejects where the connection failed. */
  readonly ended: Promise<void>
}

/** Requests of a read-only mount are short; forgets come in as many as fit. */
const INPUT_BYTES = 64 * 1024

export function serveTree(options: ServeOptions): ServedTree {
  return new FuseServer(options)
}

class FuseServer implements ServedTree {
  readonly ready: Promise<void>
  readonly ended: Promise<void>
  readonly #device: FuseDevice
  readonly #acls: Acls | undefined
  readonly #request = emptyRequest()
  readonly #replies: Replies
  readonly #requests: RequestsInFlight
  readonly #operations: Operations
  readonly #trouble: (message: string, error?: unknown) => void
  readonly #ready = Promise.withResolvers<void>()
  readonly #ended = Promise.withResolvers<void>()
  #isOver = false

  constructor({ root, device, statfs, acls, clock, onTrouble }: ServeOptions) {
    this.#device = device
    this.#acls = acls
    this.#trouble = onTrouble ?? (() => {})
    this.#replies = new Replies(device, this.#trouble)
    this.#requests = new RequestsInFlight(clock, (unique, errno) => void this.#replies.error(unique, errno))
    this.#operations = new Operations({
      root,
      statfs,
      acls,
      replies: this.#replies,
      requests: this.#requests,
      trouble: this.#trouble,
    })
    this.ready = this.#ready.promise
    this.ended = this.#ended.promise
    // Whoever does not look at one of them is told by the other.
    this.ready.catch(() => {})
    this.ended.catch(() => {})
    device.watch(() => this.#serve())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end()
  }

  #serve(): void {
    for (let requests = 0; requests < limits.fuseRequestsPerTurn && !this.#isOver; requests++) {
      const length = this.#device.read(this.#request.input)
      if (length > 0) this.#handle(length)
      else if (-length === E.EAGAIN) return
      else if (-length === E.ENODEV) void this.#end()
      // ENOENT: a request was taken back while it was read.
      else if (-length !== E.ENOENT) void this.#end(connectionFailed(`errno ${-length}`))
    }
  }

  /** One request. Whatever goes wrong in here is its answer, and not the end of the server. */
  #handle(length: number): void {
    const request = this.#request
    const { view } = request
    if (!parseHeader(view, length, request)) return void this.#end(connectionFailed('a message that makes no sense'))
    request.length = length
    try {
      if (request.opcode === C.FUSE_INIT) this.#init(request)
      else if (request.opcode === C.FUSE_INTERRUPT) this.#requests.interrupt(getUint64(view, C.IN_HEADER_BYTES))
      else if (request.opcode === C.FUSE_DESTROY) this.#replies.body(request.unique, 0)
      else this.#operations.begin(request)
    } catch (error) {
      if (!(error instanceof Refusal)) this.#trouble(`request ${request.opcode} failed: ${messageOf(error)}`, error)
      this.#replies.error(request.unique, errnoOf(error))
    }
  }

  #init({ unique, view }: Request): void {
    try {
      const reply = negotiate(parseInit(view), this.#acls !== undefined)
      this.#replies.body(unique, encodeInit(this.#replies.view, this.#replies.start, reply))
      this.#ready.resolve()
    } catch (error) {
      this.#replies.error(unique, E.EPROTO)
      void this.#end(error)
    }
  }

  async #end(failure?: unknown): Promise<void> {
    if (this.#isOver) return this.ended.catch(() => {})
    this.#isOver = true
    this.#requests.stop()
    // Closed at once: whoever waits gets ENOTCONN.
    this.#device[Symbol.dispose]()
    this.#ready.reject(failure ?? connectionFailed('it was unmounted'))
    await this.#operations.close()
    if (failure === undefined) this.#ended.resolve()
    else this.#ended.reject(failure)
  }
}

function emptyRequest(): Request {
  const input = Buffer.allocUnsafeSlow(INPUT_BYTES)
  return { opcode: 0, unique: 0, nodeId: 0, length: 0, input, view: new DataView(input.buffer) }
}

const connectionFailed = (why: string): LifeboatError =>
  new LifeboatError('fuse-failed', `The connection with the kernel's FUSE ended: ${why}`, {
    hint: 'Mount again; the kernel log (`dmesg`) may say more.',
  })
