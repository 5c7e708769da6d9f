/** The client of docs/guest-protocol.md: the filesystems that an agent or a reader parses, as trees of files. It believes nothing that it is told. */
import type { Duplex } from 'node:stream'
import type { Clock } from '../core/clock.ts'
import type { LifeboatError } from '../core/errors.ts'
import { limits, MiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { Slots } from '../core/slots.ts'
import type { FileTree } from '../files/file-tree.ts'
import { GuestConnection } from './guest-connection.ts'
import { filesystemError, printable, protocolError, wrongKeyError } from './guest-errors.ts'
import type { GuestFilesystems, Volume } from './guest-filesystems.ts'
import { Kept, RemoteVolume } from './remote-volume.ts'
import { fieldsOf, parseJson, parseVolumes } from './volume-list.ts'
import { parseText, RequestBody } from './wire.ts'

export interface RemoteGuestsOptions extends AbortOptions {
  /** To the server; the guests' own from now on, destroyed where this throws. */
  readonly stream: Duplex
  readonly clock: Clock
  /** Of the names of the trees, `<prefix>/<volume>`: another one for each connection that may read another disk. */
  readonly treePrefix: string
  /** What the server has to greet, a VM's start included. */
  readonly helloMs?: number
  readonly requestMs?: number
}

export interface RemoteGuests extends GuestFilesystems {
  readonly server: 'agent' | 'reader'
  /** What it was built from, in its own words. */
  readonly built: string
  /** False: every call fails with `ended`'s error, and the owner may start another server. */
  readonly isAlive: boolean
  /** Why it ended; also when it was closed. Never rejects. */
  readonly ended: Promise<LifeboatError>
  /** Names in the directories that were listed that no directory may have: damage, or an attack. */
  readonly namesLeftOut: number
}

/** Throws 'guest-lost' where nobody greets, 'guest-protocol' where it is not who it should be. */
export async function remoteGuests(options: RemoteGuestsOptions): Promise<RemoteGuests> {
  const { stream, clock, treePrefix, signal, helloMs } = options
  const connection = new GuestConnection(stream, clock, options.requestMs)
  try {
    const hello = { object: 'the greeting', signal, ms: helloMs }
    const greeting = await connection.ask('hello', new RequestBody().u32(VERSION), parseGreeting, hello)
    return new Remote(connection, greeting, treePrefix)
  } catch (error) {
    await connection.close()
    throw error
  }
}

const VERSION = 1

interface Greeting {
  readonly server: 'agent' | 'reader'
  readonly built: string
}

function parseGreeting(body: Buffer): Greeting {
  const fields = fieldsOf(parseJson(parseText(body, 4096).toString('utf8')))
  const server = fields?.get('server')
  const built = fields?.get('built')
  if (fields?.get('version') !== VERSION || (server !== 'agent' && server !== 'reader') || typeof built !== 'string')
    throw protocolError('a greeting of somebody else')
  return { server, built: printable(built) }
}

class Remote implements RemoteGuests {
  readonly server: 'agent' | 'reader'
  readonly built: string
  readonly #connection: GuestConnection
  readonly #treePrefix: string
  readonly #kept = new Kept()
  readonly #trees = new Map<string, FileTree>()
  /** Mounting and unlocking take the server's threads for long, so they come one at a time. */
  readonly #turn = new Slots(1)

  constructor(connection: GuestConnection, { server, built }: Greeting, treePrefix: string) {
    this.#connection = connection
    this.#treePrefix = treePrefix
    this.server = server
    this.built = built
  }

  get isAlive(): boolean {
    return this.#connection.failure === undefined
  }

  get ended(): Promise<LifeboatError> {
    return this.#connection.ended
  }

  get namesLeftOut(): number {
    return this.#kept.namesLeftOut
  }

  async volumes({ signal }: AbortOptions = {}): Promise<readonly Volume[]> {
    const parse = (body: Buffer) => parseVolumes(parseText(body, MiB).toString('utf8'))
    const options = { signal, ms: limits.guestMountMs, object: 'the volumes of the guest' }
    return await this.#inTurn(signal, () => this.#connection.ask('volumes', new RequestBody(), parse, options))
  }

  async unlock(volume: string, key: Uint8Array, { signal }: AbortOptions = {}): Promise<void> {
    const body = new RequestBody().text(Buffer.from(volume)).text(key)
    const options = { signal, ms: limits.guestMountMs }
    const { errno, body: text } = await this.#inTurn(signal, () => this.#connection.call('unlock', body, options))
    if (errno === EACCES) throw wrongKeyError(volume, text.toString('utf8'))
    if (errno !== 0) throw filesystemError(errno, text.toString('utf8'), volume)
  }

  async open(volume: string, { signal }: AbortOptions = {}): Promise<FileTree> {
    return await this.#inTurn(signal, async () => {
      const tree =
        this.#trees.get(volume) ??
        (await new RemoteVolume(volume, `${this.#treePrefix}/${volume}`, this.#connection, this.#kept).open({ signal }))
      this.#trees.set(volume, tree)
      return tree
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#connection.close()
  }

  async #inTurn<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    await this.#turn.take(signal)
    try {
      return await work()
    } finally {
      this.#turn.give()
    }
  }
}

const EACCES = 13
