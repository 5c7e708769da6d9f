/** A client that sends whatever bytes a test wants, and reads the answer byte by byte. */
import { connect, type Socket } from 'node:net'
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls'
import * as C from '../../src/nbd/constants.ts'
import * as O from '../../src/nbd/option-codec.ts'
import {
  emptyReply,
  emptyRequest,
  type HeaderMode,
  parseReply,
  putRequest,
  type ReplyHeader,
  replyHeaderBytes,
  requestHeaderBytes,
} from '../../src/nbd/wire.ts'

export interface RawReply extends ReplyHeader {
  readonly payload: Buffer
}

/** The path of a socket, or a port of this host. */
type Where = string | number

export class RawNbdClient implements AsyncDisposable {
  socket: Socket
  readonly closed: Promise<void>
  #received: Buffer[] = []
  #available = 0
  #ended = false
  #wake: () => void = () => {}
  mode: HeaderMode = 'simple'

  private constructor(where: Where) {
    this.socket = typeof where === 'number' ? connect(where, '127.0.0.1') : connect(where)
    this.#listen(this.socket)
    this.closed = new Promise(resolve =>
      this.socket.on('close', () => {
        this.#end()
        resolve()
      }),
    )
  }

  #listen(socket: Socket): void {
    socket.on('error', () => {})
    socket.on('data', data => {
      this.#received.push(data)
      this.#available += data.length
      this.#wake()
    })
    socket.on('end', () => this.#end())
  }

  /** Upgrades the connection. The server's certificate is not looked at unless `options` want it. */
  async startTls(options: ConnectionOptions = {}): Promise<TLSSocket> {
    const replies = await this.option(C.NBD_OPT_STARTTLS)
    if (replies.at(-1)?.type !== C.NBD_REP_ACK) throw new Error('STARTTLS was refused')
    return this.secure(options)
  }

  /** The handshake alone; rejects when it fails. */
  async secure(options: ConnectionOptions = {}): Promise<TLSSocket> {
    this.socket.removeAllListeners('data')
    const socket = tlsConnect({ rejectUnauthorized: false, ...options, socket: this.socket })
    this.socket = socket
    await new Promise<void>((resolve, reject) => {
      socket.once('secureConnect', resolve).once('error', reject)
      socket.once('close', () => reject(new Error('closed during the handshake of TLS')))
    })
    this.#listen(socket)
    return socket
  }

  #end(): void {
    this.#ended = true
    this.#wake()
  }

  static async connect(where: Where): Promise<RawNbdClient> {
    const client = new RawNbdClient(where)
    await new Promise((resolve, reject) => client.socket.once('connect', resolve).once('error', reject))
    return client
  }

  /** Past the greeting. */
  static async open(where: Where, flags = C.NBD_FLAG_FIXED_NEWSTYLE | C.NBD_FLAG_NO_ZEROES): Promise<RawNbdClient> {
    const client = await RawNbdClient.connect(where)
    await client.read(18)
    client.write(Buffer.from([0, 0, 0, flags]))
    return client
  }

  /** In transmission. */
  static async go(
    where: Where,
    name: string,
    mode: HeaderMode = 'simple',
    contexts: readonly string[] = [],
    tls?: ConnectionOptions,
  ): Promise<RawNbdClient> {
    const client = await RawNbdClient.open(where)
    if (tls) await client.startTls(tls)
    client.mode = mode
    if (mode === 'structured') await client.option(C.NBD_OPT_STRUCTURED_REPLY)
    if (mode === 'extended') await client.option(C.NBD_OPT_EXTENDED_HEADERS)
    if (contexts.length > 0) await client.option(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries(name, contexts))
    await client.option(C.NBD_OPT_GO, O.encodeGo(name, []))
    return client
  }

  write(bytes: Uint8Array): void {
    this.socket.write(bytes)
  }

  async read(length: number): Promise<Buffer> {
    while (this.#available < length) {
      if (this.#ended) throw new Error(`closed after ${this.#available} of ${length} bytes`)
      await new Promise<void>(resolve => {
        this.#wake = resolve
      })
    }
    if ((this.#received[0]?.length ?? 0) < length) this.#received = [Buffer.concat(this.#received)]
    const [first = Buffer.alloc(0), ...rest] = this.#received
    this.#received = [first.subarray(length), ...rest]
    this.#available -= length
    return first.subarray(0, length)
  }

  get unread(): number {
    return this.#available
  }

  /** Sends an option and gives its replies up to the ACK or error. */
  async option(option: number, payload: Uint8Array = Buffer.alloc(0)): Promise<{ type: number; payload: Buffer }[]> {
    this.write(O.encodeOption(option, payload))
    return this.optionReplies()
  }

  async optionReplies(): Promise<{ type: number; payload: Buffer }[]> {
    const replies: { type: number; payload: Buffer }[] = []
    for (;;) {
      const header = O.parseOptionReplyHeader(await this.read(20))
      if (header === undefined) throw new Error('bad option reply')
      replies.push({ type: header.type, payload: await this.read(header.length) })
      if (header.type === C.NBD_REP_ACK || header.type >= C.NBD_REP_FLAG_ERROR) return replies
    }
  }

  request(type: number, offset: number, length: number, flags = 0, cookie = 7, payload?: Uint8Array): void {
    const bytes = Buffer.alloc(requestHeaderBytes(this.mode))
    const halves = { offsetHi: Math.floor(offset / 2 ** 32), offsetLo: offset % 2 ** 32, cookieHi: 1, cookieLo: cookie }
    putRequest(this.mode, bytes, 0, { ...emptyRequest(), type, flags, length, ...halves })
    this.write(payload === undefined ? bytes : Buffer.concat([bytes, payload]))
  }

  /** One simple reply (with `dataLength` bytes if it says success) or one chunk. */
  async reply(dataLength = 0): Promise<RawReply> {
    const header = emptyReply()
    let b = await this.read(16)
    if (parseReply(this.mode, b, 0, 16, header) === 0) {
      b = Buffer.concat([b, await this.read(replyHeaderBytes(this.mode) - 16)])
      if (parseReply(this.mode, b, 0, b.length, header) <= 0) throw new Error('bad reply')
    }
    const length = header.kind === 'chunk' ? header.length : header.error === 0 ? dataLength : 0
    return { ...header, payload: await this.read(length) }
  }

  /** All chunks of one reply. */
  async chunks(): Promise<RawReply[]> {
    const chunks: RawReply[] = []
    for (;;) {
      const chunk = await this.reply()
      chunks.push(chunk)
      if (chunk.kind === 'simple' || (chunk.flags & C.NBD_REPLY_FLAG_DONE) !== 0) return chunks
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy()
    await this.closed
  }
}

/** The error value of a reply in whatever shape it came. */
export const errorOf = (reply: RawReply): number =>
  reply.kind === 'simple'
    ? reply.error
    : (reply.type & C.NBD_REPLY_TYPE_ERROR_BIT) !== 0
      ? reply.payload.readUInt32BE(0)
      : 0
