/** Where `export` listens and who may come: a socket, an address, or what systemd opened; with TLS or, said aloud, without. */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { readServerTls } from '../nbd/tls-folder.ts'
import type { ListenAddress } from '../recovery/exporter.ts'
import type { Surroundings } from './invocation.ts'
import type { ExporterSecurity } from './nbd-exporter.ts'

export interface ListenFlags {
  readonly socket?: string
  readonly listen?: string
  readonly tls?: string
  readonly tlsVerify?: boolean
  readonly insecure?: boolean
}

type Environment = Surroundings['environment']

export function listenAt(flags: ListenFlags, environment: Environment): ListenAddress {
  const { socket, listen, tls, insecure = false } = flags
  mustNameFolder(flags)
  if (socket !== undefined && listen !== undefined) throw place('named twice')
  if (socket !== undefined) {
    if (Buffer.byteLength(socket) <= limits.socketPathMax) return { socket }
    throw new LifeboatError('usage', `--socket ${socket} is too long for a socket`, {
      hint: `name a path of at most ${limits.socketPathMax} bytes, for example in /run`,
    })
  }
  if (listen !== undefined) {
    if (tls === undefined && !insecure) throw unprotected('--listen')
    return parseListen(listen)
  }
  const descriptor = passedSocket(environment)
  if (descriptor === undefined) throw place('missing')
  return { descriptor }
}

/** Throws 'tls-credentials' for a folder that does not serve, and 'usage' for flags that contradict each other. */
export async function securityOf(flags: ListenFlags, now: Date): Promise<ExporterSecurity> {
  const { tls: folder, tlsVerify: verify = false, insecure = false } = flags
  mustNameFolder(flags)
  if (folder === undefined) return { insecure }
  const tls = await readServerTls({ folder, verify, now })
  if (insecure && (verify || tls.presharedKey !== undefined))
    throw new LifeboatError('usage', '--insecure lets in whom --tls would ask for a certificate or a key', {
      hint: 'leave --insecure out',
    })
  return { insecure, tls }
}

function mustNameFolder({ tls, tlsVerify }: ListenFlags): void {
  if (tlsVerify && tls === undefined)
    throw new LifeboatError('usage', '--tls-verify goes with --tls', {
      hint: 'name the folder of certificates: --tls DIR',
    })
}

const place = (what: string): LifeboatError =>
  new LifeboatError('usage', `the place to listen at is ${what}`, {
    hint: 'say --socket PATH, or --listen HOST:PORT with --tls DIR',
  })

export const unprotected = (what: string): LifeboatError =>
  new LifeboatError('usage', `${what} without TLS lets everybody on the network read the disks`, {
    hint: 'say --tls DIR, use --socket, or say --insecure if the network is yours alone',
  })

/** HOST:PORT, with [::1]:PORT for IPv6. */
function parseListen(text: string): { host: string; port: number } {
  const match = /^(?:\[(?<six>[^\]]+)\]|(?<host>[^:]+)):(?<port>\d{1,5})$/.exec(text)?.groups
  const port = Number(match?.port)
  const host = match?.six ?? match?.host
  if (!host || !(port >= 0 && port <= 65_535))
    throw new LifeboatError('usage', `--listen ${text} is not HOST:PORT`, {
      hint: 'for example --listen 127.0.0.1:10809',
    })
  return { host, port }
}

const FIRST_DESCRIPTOR = 3

/** What systemd hands to a service that a .socket unit starts: its descriptors begin at 3. */
export function passedSocket(environment: Environment): number | undefined {
  const { LISTEN_PID, LISTEN_FDS } = environment
  // Without the check, whatever a started program starts in its turn would take over descriptors that it does not have.
  if (LISTEN_PID !== String(process.pid) && LISTEN_PID !== `parent:${process.ppid}`) return undefined
  const count = Number(LISTEN_FDS ?? 0)
  if (count === 1) return FIRST_DESCRIPTOR
  if (count === 0) return undefined
  throw new LifeboatError('usage', `systemd passed ${LISTEN_FDS} sockets; export listens at one`, {
    hint: 'leave one ListenStream in the .socket unit, or write a unit for each',
  })
}
