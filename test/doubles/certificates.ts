/** Certificates for tests, made here so that they can be wrong in every way: expired, nameless, of another CA, revoked. */
import { generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const DAY_MS = 86_400_000

export interface CertificateWishes {
  readonly commonName: string
  /** As `DNS:name`, `IP:127.0.0.1`, `email:who@where`. None: no alternative names at all. */
  readonly names?: readonly string[]
  readonly from?: Date
  readonly to?: Date
  readonly authority?: boolean
}

export interface Identity {
  readonly certificate: string
  readonly key: string
  readonly serial: Buffer
}

interface Authority extends Identity {
  readonly commonName: string
  issue(wishes: CertificateWishes): Identity
  /** A list of what was revoked. */
  revoke(...identities: readonly Identity[]): string
}

export function certificateAuthority(
  commonName = 'test authority',
  validity: Partial<CertificateWishes> = {},
): Authority {
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const own = certify({ ...validity, commonName, authority: true }, pair.publicKey, commonName, pair.privateKey)
  return {
    ...own,
    commonName,
    key: pem('PRIVATE KEY', pair.privateKey.export({ type: 'pkcs8', format: 'der' })),
    issue(wishes) {
      const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
      const key = pem('PRIVATE KEY', privateKey.export({ type: 'pkcs8', format: 'der' }))
      return { ...certify(wishes, publicKey, commonName, pair.privateKey), key }
    },
    revoke: (...identities) => revocations(identities, commonName, pair.privateKey),
  }
}

/** Writes QEMU's names; what is not given is not written. Keys get mode 0600. */
export async function credentialFolder(
  folder: string,
  given: {
    ca?: string
    crl?: string
    server?: Identity
    client?: Identity
    psk?: Record<string, string>
    permissions?: unknown
  },
): Promise<string> {
  await mkdir(folder, { recursive: true })
  const write = (name: string, text: string | undefined, mode = 0o644) =>
    text === undefined ? undefined : writeFile(join(folder, name), text, { mode })
  await write('ca-cert.pem', given.ca)
  await write('ca-crl.pem', given.crl)
  for (const who of ['server', 'client'] as const) {
    await write(`${who}-cert.pem`, given[who]?.certificate)
    await write(`${who}-key.pem`, given[who]?.key, 0o600)
  }
  const lines = given.psk && Object.entries(given.psk).map(([name, key]) => `${name}:${key}\n`)
  await write('keys.psk', lines?.join(''), 0o600)
  await write('permissions.json', given.permissions === undefined ? undefined : JSON.stringify(given.permissions))
  return folder
}

function certify(
  wishes: CertificateWishes,
  subject: KeyObject,
  issuer: string,
  by: KeyObject,
): Omit<Identity, 'key'> & { key: '' } {
  const { commonName, names, from = new Date(Date.now() - DAY_MS), to = new Date(Date.now() + 30 * DAY_MS) } = wishes
  const serial = Buffer.concat([Buffer.from([0x40]), randomBytes(8)])
  const extensions = [
    extension('2.5.29.19', der(0x30, ...(wishes.authority ? [der(0x01, Buffer.from([0xff]))] : [])), true),
    extension('2.5.29.15', der(0x03, Buffer.from(wishes.authority ? [1, 0x06] : [7, 0x80])), true),
  ]
  if (!wishes.authority)
    extensions.push(extension('2.5.29.37', der(0x30, oid('1.3.6.1.5.5.7.3.1'), oid('1.3.6.1.5.5.7.3.2'))))
  if (names !== undefined) extensions.push(extension('2.5.29.17', der(0x30, ...names.map(generalName))))
  const body = der(
    0x30,
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    ECDSA_SHA256,
    distinguishedName(issuer),
    der(0x30, time(from), time(to)),
    distinguishedName(commonName),
    subject.export({ type: 'spki', format: 'der' }),
    der(0xa3, der(0x30, ...extensions)),
  )
  return { certificate: pem('CERTIFICATE', signed(body, by)), serial, key: '' }
}

function revocations(identities: readonly Identity[], issuer: string, by: KeyObject): string {
  const now = time(new Date(Date.now() - DAY_MS))
  const entries = identities.map(({ serial }) => der(0x30, der(0x02, serial), now))
  const version = der(0x02, Buffer.from([1]))
  const next = time(new Date(Date.now() + 30 * DAY_MS))
  const list = entries.length > 0 ? [der(0x30, ...entries)] : []
  return pem('X509 CRL', signed(der(0x30, version, ECDSA_SHA256, distinguishedName(issuer), now, next, ...list), by))
}

const signed = (body: Buffer, by: KeyObject): Buffer =>
  der(0x30, body, ECDSA_SHA256, der(0x03, Buffer.from([0]), sign('sha256', body, by)))

function der(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents)
  if (content.length < 128) return Buffer.concat([Buffer.from([tag, content.length]), content])
  const length = Buffer.alloc(4)
  length.writeUInt32BE(content.length)
  const digits = length.subarray(length.findIndex(byte => byte > 0))
  return Buffer.concat([Buffer.from([tag, 0x80 | digits.length]), digits, content])
}

function oid(text: string): Buffer {
  const [first = 0, second = 0, ...rest] = text.split('.').map(Number)
  const bytes = [first * 40 + second]
  for (const part of rest) {
    const digits = [part & 0x7f]
    for (let left = part >> 7; left > 0; left >>= 7) digits.unshift((left & 0x7f) | 0x80)
    bytes.push(...digits)
  }
  return der(0x06, Buffer.from(bytes))
}

const ECDSA_SHA256 = der(0x30, oid('1.2.840.10045.4.3.2'))
const utf8 = (text: string): Buffer => der(0x0c, Buffer.from(text))
const distinguishedName = (commonName: string): Buffer =>
  der(0x30, der(0x31, der(0x30, oid('2.5.4.3'), utf8(commonName))))
const time = (date: Date): Buffer =>
  der(0x18, Buffer.from(`${date.toISOString().slice(0, 19).replaceAll(/[-T:]/g, '')}Z`))
const extension = (id: string, value: Buffer, critical = false): Buffer =>
  der(0x30, oid(id), ...(critical ? [der(0x01, Buffer.from([0xff]))] : []), der(0x04, value))

function generalName(text: string): Buffer {
  const [kind = '', ...rest] = text.split(':')
  const value = rest.join(':')
  if (kind === 'IP') return der(0x87, Buffer.from(value.split('.').map(Number)))
  return der(kind === 'email' ? 0x81 : kind === 'URI' ? 0x86 : 0x82, Buffer.from(value))
}

function pem(label: string, bytes: Buffer): string {
  const lines = bytes.toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}
