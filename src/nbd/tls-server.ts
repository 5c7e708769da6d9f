/** TLS on a connection that was accepted in the clear: the server's half of STARTTLS, and who the client has proven to be. */
import type { Socket } from 'node:net'
import { type SecureContext, TLSSocket } from 'node:tls'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { clientNames } from './tls-names.ts'
import type { Permissions } from './tls-permissions.ts'

export interface ServerTls {
  readonly context: SecureContext
  /** A client without a valid certificate of our CA is refused, unless it has a pre-shared key. */
  readonly verify: boolean
  /** Gives a key for every identity, so that one that is unknown fails as a wrong key does. */
  readonly presharedKey?: (identity: string) => Uint8Array
  readonly permissions?: Permissions
}

/** Clients that cannot prove who they are see no export at all. */
export const mustAuthenticate = (tls: ServerTls): boolean => tls.verify || tls.presharedKey !== undefined

/**
 * Takes over `plain`, of which nothing that belongs to the encryption may have been read, and calls `secured` with the client's
 * names when the handshake is done, or `failed` when it will not be: then the caller destroys the socket.
 */
export function acceptTls(
  plain: Socket,
  tls: ServerTls,
  { secured, failed }: { secured(names: readonly string[]): void; failed(reason: string): void },
): TLSSocket {
  let identity: string | undefined
  const options = {
    isServer: true,
    secureContext: tls.context,
    requestCert: tls.verify,
    rejectUnauthorized: false,
    pskCallback:
      tls.presharedKey &&
      ((_: TLSSocket, name: string) => {
        identity = name
        return tls.presharedKey?.(name) ?? null
      }),
  }
  const socket = new TLSSocket(plain, options)
  socket.on('error', (error: NodeJS.ErrnoException) => failed(`TLS: ${error.code ?? 'failed'}`))
  socket.once('secure', () => {
    try {
      // At once: the first bytes from inside may follow in this same turn.
      secured(provenNames(socket, tls, identity))
    } catch (error) {
      failed(`TLS: ${isLifeboatError(error) ? error.message : 'internal error'}`)
    }
  })
  return socket
}

/** A verdict without a certificate is that of a pre-shared key: a client that shows neither does not get one. */
function provenNames(socket: TLSSocket, tls: ServerTls, identity: string | undefined): readonly string[] {
  if (!mustAuthenticate(tls)) return []
  const problem = verifyError(socket)
  if (problem !== undefined) throw new LifeboatError('nbd-refused', `client not authenticated: ${problem}`)
  const certificate = socket.getPeerX509Certificate()
  if (certificate !== undefined) return clientNames(certificate)
  if (identity !== undefined && tls.presharedKey !== undefined) return [`psk:${identity}`]
  throw new LifeboatError('nbd-refused', 'client without a certificate')
}

/**
 * OpenSSL's verdict on the certificate. Node gives it away as `authorized` for sockets that its own servers accept; for one that
 * is upgraded in the middle of a conversation only the handle has it. Where it should be missing, nobody is let in.
 */
function verifyError(socket: TLSSocket): string | undefined {
  const handle: unknown = '_handle' in socket ? socket._handle : undefined
  if (!hasVerdict(handle)) return 'its certificate cannot be checked'
  const verdict = handle.verifyError()
  if (verdict === null || verdict === undefined) return undefined
  return verdict instanceof Error && 'code' in verdict ? String(verdict.code) : 'its certificate is not valid'
}

const hasVerdict = (value: unknown): value is { verifyError(): unknown } =>
  typeof value === 'object' && value !== null && 'verifyError' in value && typeof value.verifyError === 'function'
