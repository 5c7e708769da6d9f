/** Bytes of a socket, read straight into memory that the reader chose. */
import { type BoundSocket, Socket } from 'node:net'

export interface InputHandler {
  /** Where the next bytes shall land; asked anew before each read. At least one byte long. */
  target(): Uint8Array
  /** `length` bytes are at the start of `buffer`, which `target` gave. False stops reading until `resume()`. */
  received(buffer: Uint8Array, length: number): boolean
}

export type InputMode = 'onread' | 'data'

/**
 * Takes over an accepted socket. With 'onread' the kernel copies into `target()` and no Buffer is allocated for a read. Node
 * offers that for sockets that it connects; for accepted ones the handle is wrapped again, which leans on the internal
 * `_handle` (pinned by a test). 'data' needs no internals and serves sockets that are not plain ones; it costs a copy.
 */
export class SocketInput {
  readonly socket: Socket
  readonly #handler: InputHandler
  readonly #mode: InputMode
  #rest: Uint8Array | undefined
  #stopped = false

  constructor(accepted: Socket, handler: InputHandler, mode: InputMode = 'onread') {
    const handle = mode === 'onread' ? handleOf(accepted) : undefined
    this.#handler = handler
    this.#mode = handle ? 'onread' : 'data'
    this.socket = handle ? new Socket(rewrapped(handle, handler)) : accepted
    if (!handle) this.socket.on('data', chunk => this.#feed(chunk))
  }

  start(): void {
    this.socket.resume()
  }

  resume(): void {
    this.#stopped = false
    if (this.#rest !== undefined) {
      const rest = this.#rest
      this.#rest = undefined
      this.#feed(rest)
    }
    if (!this.#stopped) this.socket.resume()
  }

  get mode(): InputMode {
    return this.#mode
  }

  #feed(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      const target = this.#handler.target()
      const length = Math.min(target.length, chunk.length - at)
      target.set(chunk.subarray(at, at + length))
      at += length
      if (this.#handler.received(target, length)) continue
      this.#stopped = true
      this.socket.pause()
      if (at < chunk.length) this.#rest = chunk.subarray(at)
      return
    }
  }
}

function handleOf(accepted: Socket): BoundSocket | undefined {
  const handle: unknown = '_handle' in accepted ? accepted._handle : undefined
  return isHandle(handle) ? handle : undefined
}

/** Node's types name only one kind of handle; any stream handle with these methods is taken. */
const isHandle = (value: unknown): value is BoundSocket =>
  typeof value === 'object' && value !== null && 'readStart' in value && 'useUserBuffer' in value

function rewrapped(handle: BoundSocket, handler: InputHandler) {
  const onread = {
    buffer: () => handler.target(),
    callback: (length: number, buffer: Uint8Array) => handler.received(buffer, length),
  }
  return { handle, onread, allowHalfOpen: true, readable: true, writable: true }
}
