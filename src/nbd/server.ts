/** The NBD server: publishes devices on one address until it is stopped. */
import { createServer, type Socket } from 'node:net'
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { BytesInFlight, defaultFlightLimits, type FlightLimits } from './bytes-in-flight.ts'
import { type AgreedSession, Connection, type ConnectionShare } from './connection.ts'
import { NBD_MAX_STRING } from './constants.ts'
import type { ExportCatalog } from './handshake.ts'
import { type ListenAddress, type ListenAt, listen } from './listen.ts'
import { type NbdLog, rateLimited } from './log-line.ts'
import type { NbdExport } from './nbd-export.ts'
import { type DescriptorRoom, DescriptorWatch, descriptorRoom } from './open-files.ts'
import { BufferPool } from './reply-writer.ts'
import type { InputMode } from './socket-input.ts'
import { mustAuthenticate, type ServerTls } from './tls-server.ts'

export interface NbdServerLimits {
  /** Connections that have chosen an export. */
  readonly connections: number
  /** Connections that are still haggling; past it the oldest gives way. */
  readonly halfOpen: number
  readonly handshakeMs: number
  /** Of one connection, before it has chosen an export. */
  readonly options: number
  readonly stalledMs: number
  readonly stalledWantedMs: number
  /** Without any request. Off by default: the disk of a sleeping guest is idle, and keep-alive finds the dead. */
  readonly idleMs: number
  readonly requestsInFlight: number
  readonly bytes: FlightLimits
  /** How long `stop` waits for what is in flight. */
  readonly stopMs: number
}

export const defaultServerLimits: NbdServerLimits = {
  connections: limits.nbdConnectionsMax,
  halfOpen: limits.nbdHalfOpenMax,
  handshakeMs: limits.nbdHandshakeMs,
  options: limits.nbdOptionsMax,
  stalledMs: limits.nbdStalledMs,
  stalledWantedMs: limits.nbdStalledWantedMs,
  idleMs: Number.POSITIVE_INFINITY,
  requestsInFlight: limits.nbdRequestsInFlight,
  bytes: defaultFlightLimits,
  stopMs: 30_000,
}

export interface ServeNbdOptions {
  /** Read at every handshake, so the list may be a live one. The only export also answers to the empty name. */
  readonly exports: readonly NbdExport[]
  readonly listen: ListenAt
  /** Without it there is no TLS; with it, nobody gets in without, unless `plainToo`. */
  readonly tls?: ServerTls
  /** Clients that do not ask for TLS are served what is not `tlsOnly`, if clients need not say who they are. */
  readonly plainToo?: boolean
  readonly clock: Clock
  readonly limits?: Partial<NbdServerLimits>
  readonly log?: NbdLog
  /** Told of each client that has chosen an export. */
  readonly onEnter?: (agreed: AgreedSession) => void
  /** How accepted sockets are read; see `SocketInput`. */
  readonly input?: InputMode
}

export interface NbdServer extends AsyncDisposable {
  readonly address: ListenAddress
  /** As clients take it: nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME. */
  uri(exportName: string): string
  readonly connectionCount: number
  readonly halfOpenCount: number
  /** Takes no more clients, answers what is in flight, closes, removes the socket file. Can be called again. */
  stop(): Promise<void>
}

export async function serveNbd(options: ServeNbdOptions): Promise<NbdServer> {
  for (const { name, description = '' } of options.exports)
    if ([name, description].some(text => text.includes('\0') || Buffer.byteLength(text) > NBD_MAX_STRING))
      throw new LifeboatError('usage', 'the name or description of an export is too long or holds a NUL', {
        hint: `Both may have ${NBD_MAX_STRING} bytes.`,
      })
  const room = await descriptorRoom()
  const bounds = within(room, { ...defaultServerLimits, ...options.limits })
  const { clock, tls, plainToo = false } = options
  const visible = (clientNames: readonly string[] | undefined): readonly NbdExport[] => {
    if (tls === undefined) return options.exports
    if (clientNames === undefined)
      return plainToo && !mustAuthenticate(tls) ? options.exports.filter(entry => !entry.tlsOnly) : []
    const { permissions } = tls
    if (permissions === undefined) return options.exports
    return options.exports.filter(entry => permissions.allows(clientNames, entry.path ?? entry.name))
  }
  const log = rateLimited(options.log ?? (() => {}), clock)
  if (bounds.isCut)
    log(
      `at most ${bounds.connections} clients: this process may have ${room.max} files open; raise that (ulimit -n, or LimitNOFILE= of the unit)`,
    )
  const descriptors = new DescriptorWatch(log)
  const halfOpen = new Set<Connection>()
  const good = new Set<Connection>()
  const ended = new AbortController()
  let stopping: Promise<void> | undefined
  let allClosed: (() => void) | undefined

  const catalogFor = (clientNames?: readonly string[]): ExportCatalog => ({
    tls: tls === undefined ? 'off' : clientNames !== undefined ? 'on' : plainToo ? 'offered' : 'demanded',
    optionsMax: bounds.options,
    list: () => visible(clientNames),
    // What is forbidden is looked for where it is not, exactly as what does not exist.
    find: name => named(visible(clientNames), name),
    admission: () => (stopping ? 'shutdown' : good.size >= bounds.connections ? 'full' : 'open'),
  })
  const share: ConnectionShare = {
    catalogFor,
    tls,
    bytes: new BytesInFlight(bounds.bytes),
    pool: new BufferPool(),
    clock,
    log,
    input: options.input ?? 'onread',
    limits: bounds,
    handshakeBytes: { used: 0, max: limits.nbdHandshakeBytesMax },
    entered: (connection, agreed) => {
      halfOpen.delete(connection)
      good.add(connection)
      options.onEnter?.(agreed)
    },
    closed: connection => {
      halfOpen.delete(connection)
      good.delete(connection)
      if (good.size === 0) allClosed?.()
    },
  }

  const accept = (socket: Socket) => {
    if (stopping) {
      socket.destroy()
      return
    }
    if (halfOpen.size >= bounds.halfOpen) {
      const [oldest] = halfOpen
      oldest?.giveWay()
    }
    halfOpen.add(new Connection(socket, share))
  }
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true, noDelay: true }, accept)
  const listening = await listen(server, options.listen)
  server.on('error', error => log(`listening socket: ${messageOf(error)}`))
  const sweeping = sweep()

  async function sweep(): Promise<void> {
    const everyMs = Math.min(1000, Math.max(10, bounds.handshakeMs / 10))
    while (!ended.signal.aborted) {
      try {
        await clock.sleep(everyMs, { signal: ended.signal })
      } catch {
        return
      }
      const now = clock.monotonicMs()
      for (const connection of [...halfOpen, ...good]) connection.sweep(now)
      descriptors.look()
    }
  }

  async function stop(): Promise<void> {
    // The socket file goes first, while the inode is certainly still ours, so that a successor can take the name at once.
    await listening.removeFile()
    server.close()
    if (good.size > 0) {
      const closed = new Promise<void>(resolve => {
        allClosed = resolve
      })
      for (const connection of [...good]) connection.finish()
      const late = new AbortController()
      await Promise.race([closed, clock.sleep(bounds.stopMs, { signal: late.signal }).catch(() => {})])
      late.abort()
    }
    // Until now who was haggling was told that the server stops.
    for (const connection of [...good, ...halfOpen]) connection.destroy()
    ended.abort()
    await sweeping
    await descriptors.settled()
  }

  const nbdServer: NbdServer = {
    address: listening.address,
    uri: name => uriOf(listening.address, name, tls !== undefined),
    get connectionCount() {
      return good.size
    },
    get halfOpenCount() {
      return halfOpen.size
    },
    stop: () => {
      stopping ??= stop()
      return stopping
    },
    [Symbol.asyncDispose]: () => nbdServer.stop(),
  }
  return nbdServer
}

/** What descriptors there are for: good clients first, and some for those who have yet to choose, if only to be refused. */
function within({ forClients }: DescriptorRoom, asked: NbdServerLimits): NbdServerLimits & { readonly isCut: boolean } {
  const choosing = Math.min(asked.halfOpen, Math.ceil(forClients / 4))
  const connections = Math.max(1, Math.min(asked.connections, forClients - choosing))
  const halfOpen = Math.max(1, Math.min(asked.halfOpen, forClients - connections))
  return { ...asked, connections, halfOpen, isCut: connections < asked.connections }
}

const named = (exports: readonly NbdExport[], name: string): NbdExport | undefined =>
  exports.find(entry => entry.name === name) ?? (name === '' && exports.length === 1 ? exports[0] : undefined)

export const uriOf = (address: ListenAddress, name: string, tls: boolean): string =>
  'socket' in address
    ? `nbd${tls ? 's' : ''}+unix:///${encodeURIComponent(name)}?socket=${encodeURIComponent(address.socket).replaceAll('%2F', '/')}`
    : `nbd${tls ? 's' : ''}://${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}/${encodeURIComponent(name)}`
