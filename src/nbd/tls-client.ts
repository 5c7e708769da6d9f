/** TLS on a connection that the client opened in the clear: its half of STARTTLS. */
import type { Socket } from 'node:net'
import { checkServerIdentity, connect, type PeerCertificate, type SecureContext, type TLSSocket } from 'node:tls'

export interface ClientTls {
  readonly context: SecureContext
  /** The name that the server's certificate must have; the host of the connection where absent. */
  readonly hostname?: string
  readonly sharedKey?: { readonly identity: string; readonly key: Uint8Array }
}

/** Takes over `plain` after STARTTLS was acknowledged; 'secureConnect' comes only for a server that has proven who it is. */
export function startTls(plain: Socket, tls: ClientTls, host: string): TLSSocket {
  const { context, sharedKey, hostname = host } = tls
  const isAddress = /^[0-9.]+$|:/.test(hostname)
  return connect({
    socket: plain,
    secureContext: context,
    rejectUnauthorized: true,
    servername: isAddress ? '' : hostname,
    checkServerIdentity: (_, certificate) => checkName(hostname, certificate),
    pskCallback: sharedKey && (() => ({ identity: sharedKey.identity, psk: sharedKey.key })),
  })
}

/** As RFC 6125 and its successor want it: the subject's common name does not count, also where there is no other. */
function checkName(hostname: string, certificate: PeerCertificate): Error | undefined {
  if (!certificate.subjectaltname) return new Error(`its certificate has no alternative names, so none is ${hostname}`)
  return checkServerIdentity(hostname, certificate)
}
