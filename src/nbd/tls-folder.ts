/**
 * A folder of credentials, under the names that QEMU gives them: ca-cert.pem, ca-crl.pem, server-cert.pem, server-key.pem,
 * client-cert.pem, client-key.pem and keys.psk (lines of NAME:HEX), with a permissions.json of our own beside them.
 *
 * What is wrong with them is said before the first client comes, not when it does.
 */
import { constants, createHmac, createPrivateKey, randomBytes, X509Certificate } from 'node:crypto'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { createSecureContext, type SecureContext, type SecureContextOptions } from 'node:tls'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { ClientTls } from './tls-client.ts'
import { parsePermissions } from './tls-permissions.ts'
import type { ServerTls } from './tls-server.ts'

/**
 * Forward secrecy and authenticated encryption only; every peer of the last ten years has one of them. Shared keys go with the
 * suites of SHA-256, so a server that would choose another one first could not use them.
 */
const TLS_1_3 = 'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384'
const WITH_CERTIFICATES = ['ECDSA', 'RSA']
  .flatMap(by => [`ECDHE-${by}-AES128-GCM-SHA256`, `ECDHE-${by}-AES256-GCM-SHA384`, `ECDHE-${by}-CHACHA20-POLY1305`])
  .join(':')
/** GnuTLS has no other pair with ours for pre-shared keys before TLS 1.3 than the second. */
const WITH_SHARED_KEYS = 'ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES128-CBC-SHA256'

/** Every connection proves itself anew: a resumed one would not be asked for its certificate. */
const PROTOCOL: SecureContextOptions = {
  minVersion: 'TLSv1.2',
  secureOptions: constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_TICKET,
  honorCipherOrder: true,
}

export interface ServerFolder {
  readonly folder: string
  readonly verify: boolean
  readonly now: Date
}

/** Throws 'tls-credentials' with what is wrong, and with which file. */
export async function readServerTls({ folder, verify, now }: ServerFolder): Promise<ServerTls> {
  const keys = await readFile(folder, 'keys.psk', { secret: true })
  const certificate = await readFile(folder, 'server-cert.pem')
  const own = certificate ?? (await readFile(folder, 'server-key.pem', { secret: true }))
  if (keys === undefined && own === undefined) {
    await readable(folder)
    throw wrong(folder, 'neither server-cert.pem with server-key.pem nor keys.psk is there', `put them into ${folder}`)
  }
  const pair = own === undefined ? undefined : await readPair(folder, 'server', now)
  if (verify && pair === undefined)
    throw wrong(join(folder, 'server-cert.pem'), 'is needed to verify the certificates of clients', CERTIFICATES)
  const ca = verify ? await readCa(folder, now) : undefined
  const permissions = await readFile(folder, 'permissions.json')
  if (permissions !== undefined && !verify && keys === undefined)
    throw wrong(permissions.path, 'cannot be obeyed: clients do not say who they are', 'say --tls-verify as well')
  const ciphers = [TLS_1_3, pair && WITH_CERTIFICATES, keys && WITH_SHARED_KEYS].filter(Boolean).join(':')
  return {
    // OpenSSL takes a shared key for a session of old, and wants to know whose.
    context: contextOf(folder, { ...pair, ...ca, ciphers, sessionIdContext: 'lifeboat-nbd' }),
    verify,
    presharedKey: keys && sharedKeys(keys),
    permissions: permissions && parsePermissions(permissions.text, permissions.path),
  }
}

export interface ClientFolder {
  readonly folder: string
  /** With a name, the key of that name in keys.psk is used, and no certificate. */
  readonly identity?: string
  /** The name that the server's certificate must have; the host of the connection where absent. */
  readonly hostname?: string
  readonly now: Date
}

/** Throws 'tls-credentials'. The server's certificate must come from this folder's CA: those of the system do not count. */
export async function readClientTls({ folder, identity, hostname, now }: ClientFolder): Promise<ClientTls> {
  if (identity !== undefined) {
    const keys = await readFile(folder, 'keys.psk', { secret: true })
    const key = keys && parseKeys(keys).get(identity)
    if (key === undefined)
      throw wrong(join(folder, 'keys.psk'), `has no key of "${identity}"`, 'add a line NAME:HEX; psktool makes one')
    return { context: contextOf(folder, { ciphers: `${TLS_1_3}:${WITH_SHARED_KEYS}` }), sharedKey: { identity, key } }
  }
  const own =
    (await readFile(folder, 'client-cert.pem')) ?? (await readFile(folder, 'client-key.pem', { secret: true }))
  const pair = own === undefined ? undefined : await readPair(folder, 'client', now)
  const ca = await readCa(folder, now)
  return { context: contextOf(folder, { ...pair, ...ca, ciphers: `${TLS_1_3}:${WITH_CERTIFICATES}` }), hostname }
}

const CERTIFICATES = 'docs/operations.md shows how such a folder is made'
const PRIVATE = 'chmod 640 it, or 600; make a new key if others could read it'

const wrong = (path: string, what: string, hint: string): LifeboatError =>
  new LifeboatError('tls-credentials', `${path}: ${what}`, { details: { object: path }, hint })

function contextOf(folder: string, options: SecureContextOptions): SecureContext {
  try {
    return createSecureContext({ ...PROTOCOL, ...options })
  } catch (error) {
    throw wrong(folder, `these credentials do not serve: ${messageOf(error)}`, CERTIFICATES)
  }
}

interface Found {
  readonly path: string
  readonly text: string
}

/** Undefined where there is no such file. What is secret must not be open to everybody. */
async function readFile(folder: string, name: string, { secret = false } = {}): Promise<Found | undefined> {
  const path = join(folder, name)
  try {
    await using file = await open(path, 'r')
    const { mode, size } = await file.stat()
    if (secret && (mode & 0o007) !== 0) throw wrong(path, 'everybody on this host can read it', PRIVATE)
    if (size > limits.tlsFileMax) throw wrong(path, 'too long for such a file', CERTIFICATES)
    return { path, text: await file.readFile('utf8') }
  } catch (error) {
    if (error instanceof LifeboatError) throw error
    if (isErrno(error, 'ENOENT')) return undefined
    throw unreadable(path, error)
  }
}

async function demand(folder: string, name: string, options = {}): Promise<Found> {
  const found = await readFile(folder, name, options)
  if (found === undefined) throw wrong(join(folder, name), 'is missing', CERTIFICATES)
  return found
}

/** Tells a folder that is not there from one that is empty. */
async function readable(folder: string): Promise<void> {
  try {
    await using _ = await open(folder, 'r')
  } catch (error) {
    throw unreadable(folder, error)
  }
}

const unreadable = (path: string, error: unknown): LifeboatError =>
  wrong(path, `cannot be read: ${isErrno(error) ? error.code : messageOf(error)}`, 'look at its name, owner and mode')

const isErrno = (error: unknown, code?: string): error is NodeJS.ErrnoException =>
  error instanceof Error && 'code' in error && (code === undefined || error.code === code)

async function readPair(folder: string, who: 'server' | 'client', now: Date): Promise<{ cert: string; key: string }> {
  const cert = await demand(folder, `${who}-cert.pem`)
  const key = await demand(folder, `${who}-key.pem`, { secret: true })
  const certificate = parseCertificate(cert, now)
  let matches = false
  try {
    matches = certificate.checkPrivateKey(createPrivateKey(key.text))
  } catch (error) {
    const hint = 'it must be a key in PEM without a passphrase'
    throw wrong(key.path, `is not a private key: ${isErrno(error) ? error.code : 'damaged'}`, hint)
  }
  if (!matches) throw wrong(key.path, `is not the key of ${cert.path}`, CERTIFICATES)
  return { cert: cert.text, key: key.text }
}

/** The list of what was revoked counts when it is there. */
async function readCa(folder: string, now: Date): Promise<{ ca: string; crl?: string }> {
  const ca = await demand(folder, 'ca-cert.pem')
  parseCertificate(ca, now)
  const crl = await readFile(folder, 'ca-crl.pem')
  return { ca: ca.text, ...(crl && { crl: crl.text }) }
}

/** The first of the file; those behind it are on the way to the CA. */
function parseCertificate({ path, text }: Found, now: Date): X509Certificate {
  let certificate: X509Certificate
  try {
    certificate = new X509Certificate(text)
  } catch {
    throw wrong(path, 'is not a certificate in PEM', CERTIFICATES)
  }
  if (now > certificate.validToDate) throw wrong(path, `has expired on ${certificate.validTo}`, CERTIFICATES)
  if (now < certificate.validFromDate)
    throw wrong(path, `is valid only from ${certificate.validFrom} on`, "look at this host's clock")
  return certificate
}

function parseKeys({ path, text }: Found): ReadonlyMap<string, Buffer> {
  const keys = new Map<string, Buffer>()
  for (const [i, line] of text
    .split('\n')
    .map(line => line.trim())
    .entries()) {
    if (line === '' || line.startsWith('#')) continue
    const [, name, hex] = /^([^:]{1,128}):((?:[0-9a-fA-F]{2}){16,64})$/.exec(line) ?? []
    if (name === undefined || hex === undefined)
      throw wrong(path, `line ${i + 1} is not NAME:HEX with 16 to 64 bytes`, 'psktool makes such lines')
    keys.set(name, Buffer.from(hex, 'hex'))
  }
  if (keys.size === 0) throw wrong(path, 'has no keys', 'add lines of NAME:HEX; psktool makes them')
  return keys
}

/** An unknown name gets a key that nobody has, so that it fails as a wrong key does. */
function sharedKeys(found: Found): (identity: string) => Uint8Array {
  const keys = parseKeys(found)
  const secret = randomBytes(32)
  return identity => {
    const unknown = createHmac('sha256', secret).update(identity).digest()
    return keys.get(identity) ?? unknown
  }
}
