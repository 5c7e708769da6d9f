/**
 * Prints docs/repository-format-vectors.json: fixed inputs and what docs/repository-format.md makes of them. Written from
 * that page with nothing but node:crypto, so that the product can be compared with it and not with itself.
 *
 *     node scripts/format-vectors.ts > docs/repository-format-vectors.json
 */
import { createCipheriv, createHash, createHmac, hkdfSync, scryptSync } from 'node:crypto'
import { pathToFileURL } from 'node:url'
import { crc32 } from 'node:zlib'

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const unhex = (text: string): Buffer => Buffer.from(text, 'hex')
const utf8 = (text: string): Buffer => Buffer.from(text)
const join = (...parts: Uint8Array[]): Buffer => Buffer.concat(parts)
const u24 = (value: number): Buffer => u32(value).subarray(1)
const filled = (byte: number, length: number): Buffer => Buffer.alloc(length, byte)

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

const hkdf = (key: Uint8Array, salt: Uint8Array, info: string): Buffer =>
  Buffer.from(hkdfSync('sha256', key, salt, info, 32))
const hmac = (key: Uint8Array, ...parts: Uint8Array[]): Buffer =>
  createHmac('sha256', key)
    .update(join(...parts))
    .digest()
const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

function gcm(key: Uint8Array, nonce: Uint8Array, aad: Uint8Array, plaintext: Uint8Array): Buffer {
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(aad)
  return join(cipher.update(plaintext), cipher.final(), cipher.getAuthTag())
}

const zeroNonce = filled(0, 12)
const repository = unhex('000102030405060708090a0b0c0d0e0f')
const domain = unhex('d0d1d2d3d4d5d6d7')
const repositoryKey = filled(0x11, 32)
const created = '2026-11-21T12:00:00.000Z'
const placed = (...parts: Uint8Array[]): Buffer => join(utf8('lifeboat/1\0'), repository, ...parts)

const derived = {
  metadata: hkdf(repositoryKey, repository, 'lifeboat/1 metadata'),
  data: hkdf(repositoryKey, repository, 'lifeboat/1 data'),
  config: hkdf(repositoryKey, repository, 'lifeboat/1 config'),
  check: hkdf(repositoryKey, repository, 'lifeboat/1 check'),
  slots: hkdf(repositoryKey, repository, 'lifeboat/1 slots'),
}

const domainKeys = {
  metadataKey: filled(0x21, 32),
  nodeIdKey: filled(0x22, 32),
  dataKey: filled(0x23, 32),
  chunkIdKey: filled(0x24, 32),
}

function envelope(key: Uint8Array, salt: Uint8Array, kind: string, objectKey: string, plaintext: Uint8Array): Buffer {
  const aad = placed(utf8(`${kind}\0${objectKey}`))
  return join(utf8('LBE1'), salt, gcm(hkdf(key, salt, 'lifeboat/1 envelope'), zeroNonce, aad, plaintext))
}

function config(): string {
  const members = {
    format: 1,
    repository: hex(repository),
    created,
    chunkSize: 4096,
    encryption: 'aes-256-gcm',
    id: 'hmac-sha-256',
    compression: 'zstd',
    domain: hex(domain),
    keyCheck: hex(derived.check.subarray(0, 16)),
    store: {},
  }
  const signed = JSON.stringify(members).slice(0, -1)
  return `${signed},"mac":"${hex(hmac(derived.config, utf8(signed)))}"}`
}

const slotAad = (slot: Uint8Array): Buffer => placed(utf8('key\0'), slot)

function slotObject(members: object): string {
  const signed = JSON.stringify(members).slice(0, -1)
  return `${signed},"mac":"${hex(hmac(derived.slots, utf8(signed)))}"}`
}

function keyFile() {
  const secret = filled(0x31, 32)
  const slot = hmac(secret, utf8('lifeboat/1 slot'), repository).subarray(0, 8)
  const wrappingKey = hkdf(secret, repository, 'lifeboat/1 key file')
  const nonce = filled(0x32, 12)
  const wrapped = gcm(wrappingKey, nonce, slotAad(slot), repositoryKey)
  const document = { format: 1, slot: hex(slot), kind: 'file', created, nonce: hex(nonce), wrapped: hex(wrapped) }
  const text = `# a comment\n\nlifeboat-key-1:${secret.toString('base64url')}\n`
  return {
    text,
    secret: hex(secret),
    wrappingKey: hex(wrappingKey),
    objectKey: `keys/${hex(slot)}`,
    object: slotObject(document),
  }
}

function passphrase() {
  const text = 'Cafe\u0301 au lait'
  const salt = filled(0x42, 16)
  const cost = { N: 1024, r: 8, p: 1 }
  const wrappingKey = scryptSync(text.normalize('NFC'), salt, 32, cost)
  const slot = filled(0x41, 8)
  const nonce = filled(0x43, 12)
  const wrapped = gcm(wrappingKey, nonce, slotAad(slot), repositoryKey)
  const kdf = { name: 'scrypt', ...cost, salt: hex(salt) }
  const document = {
    format: 1,
    slot: hex(slot),
    kind: 'passphrase',
    created,
    kdf,
    nonce: hex(nonce),
    wrapped: hex(wrapped),
  }
  return {
    passphrase: text,
    wrappingKey: hex(wrappingKey),
    objectKey: `keys/${hex(slot)}`,
    object: slotObject(document),
  }
}

/** A keeper's blob is the keeper's business; here it is 64 bytes that it makes of the secret. */
function kept(kind: 'command' | 'pkcs11', seed: number) {
  const secret = filled(seed, 32)
  const slot = filled(seed + 1, 8)
  const nonce = filled(seed + 2, 12)
  const blob = filled(seed + 3, 64)
  const wrapped = gcm(hkdf(secret, repository, `lifeboat/1 key ${kind}`), nonce, slotAad(slot), repositoryKey)
  const place = { format: 1, slot: hex(slot), kind, created }
  const document = { ...place, label: 'kek', blob: hex(blob), nonce: hex(nonce), wrapped: hex(wrapped) }
  return { secret: hex(secret), objectKey: `keys/${hex(slot)}`, object: slotObject(document) }
}

function domainObject() {
  const objectKey = `keys/${hex(domain)}/0`
  const { metadataKey, nodeIdKey, dataKey, chunkIdKey } = domainKeys
  const metadata = envelope(
    derived.metadata,
    filled(0x51, 16),
    'domain-metadata',
    objectKey,
    join(metadataKey, nodeIdKey),
  )
  const data = envelope(derived.data, filled(0x52, 16), 'domain-data', objectKey, join(dataKey, chunkIdKey))
  return { objectKey, object: hex(join(u32(metadata.length), metadata, data)) }
}

interface PackInput {
  readonly kind: 1 | 2
  readonly fresh: Uint8Array
  readonly footerSalt: Uint8Array
  readonly contentId: Uint8Array
  readonly plaintext: Uint8Array
}

/** A pack of one record, of epoch 0. */
function pack({ kind, fresh, footerSalt, contentId, plaintext }: PackInput) {
  const id = join(
    filled(0, 1),
    hmac(kind === 1 ? domainKeys.chunkIdKey : domainKeys.nodeIdKey, fresh, contentId).subarray(0, 15),
  )
  const objectKey = `${kind === 1 ? 'packs' : 'meta'}/${hex(domain)}/${hex(id.subarray(1, 2))}/${hex(id)}`
  const slotKey = hkdf(kind === 1 ? domainKeys.dataKey : domainKeys.metadataKey, id, 'lifeboat/1 pack')
  const aad = placed(domain, Buffer.of(kind), id, u32(0), contentId)
  const body = gcm(slotKey, join(filled(0, 8), u32(0)), aad, plaintext)
  const rows = join(contentId.subarray(0, 20), u24(body.length))
  const footerKey = hkdf(domainKeys.metadataKey, footerSalt, 'lifeboat/1 footer')
  const footer = join(footerSalt, gcm(footerKey, zeroNonce, placed(utf8(`footer\0${objectKey}`)), rows))
  const checksums = sha256(join(body, footer))
  const lengths = join(
    u32(1),
    u32(0),
    u32(body.length),
    u32(footer.length),
    u32(checksums.length),
    u32(crc32(checksums)),
  )
  const clear = join(utf8('LBPACK1\n'), Buffer.of(kind, 0, 0, 0), id, lengths, filled(0, 8))
  const object = join(body, footer, checksums, clear, u32(crc32(clear)))
  return {
    fresh: hex(fresh),
    pack: hex(id),
    objectKey,
    slotKey: hex(slotKey),
    aad: hex(aad),
    plaintext: hex(plaintext),
    stored: hex(body),
    rows: hex(rows),
    footer: hex(footer),
    object: hex(object),
  }
}

/** 4 KiB of 'A' as one zstd frame of one block that repeats a byte: no compressor's version changes it. */
const repeated = unhex('28b52ffd60000f03800041')

function data() {
  const chunk = filled(0x41, 4096)
  const id = hmac(domainKeys.chunkIdKey, chunk)
  const plaintext = join(Buffer.of(1), u24(chunk.length), repeated)
  const made = pack({ kind: 1, fresh: filled(0x61, 16), footerSalt: filled(0x62, 16), contentId: id, plaintext })
  return { chunk: "4096 times the byte 0x41, 'A'", id: hex(id), ...made }
}

/** A leaf of a 256 KiB disk: chunk 1 and chunk 9 are the same one. */
function meta(chunk: { readonly id: string; readonly pack: string; readonly stored: string }) {
  const bitmap = unhex('0202000000000000')
  const ids = unhex(chunk.id + chunk.id)
  const run = Buffer.of(1, 0, 0, 0, chunk.stored.length / 2)
  const head = join(Buffer.of(1, 0), unhex('0001'), u32(64), u32(2))
  const node = join(head, bitmap, unhex(chunk.pack), ids, run, run)
  const id = hmac(domainKeys.nodeIdKey, utf8('lifeboat/1 node'), Buffer.of(0), u32(64), u32(4096), bitmap, ids)
  const plaintext = join(Buffer.of(0), u24(node.length), node)
  const made = pack({ kind: 2, fresh: filled(0x71, 16), footerSalt: filled(0x72, 16), contentId: id, plaintext })
  return { diskSize: 262_144, node: hex(node), id: hex(id), ...made }
}

function lease() {
  const objectKey = 'leases/8182838485868788'
  const plaintext = '{"counter":1}'
  return {
    kind: 'lease',
    objectKey,
    plaintext,
    object: hex(envelope(derived.metadata, filled(0x81, 16), 'lease', objectKey, utf8(plaintext))),
  }
}

export function formatVectors() {
  const dataPack = data()
  return {
    note: 'Inputs and results of docs/repository-format.md. Bytes are hex; `text`, `object` of clear documents and `config` are text.',
    repository: hex(repository),
    repositoryKey: hex(repositoryKey),
    derived: Object.fromEntries(Object.entries(derived).map(([name, key]) => [name, hex(key)])),
    config: config(),
    keyFile: keyFile(),
    passphrase: passphrase(),
    command: kept('command', 0x61),
    pkcs11: kept('pkcs11', 0x71),
    domain: hex(domain),
    epoch: 0,
    domainKeys: {
      ...Object.fromEntries(Object.entries(domainKeys).map(([name, key]) => [name, hex(key)])),
      ...domainObject(),
    },
    envelope: lease(),
    dataPack,
    metaPack: meta(dataPack),
  }
}

/** Letters beyond ASCII are escaped, so that no editor composes the passphrase's. */
export const formatVectorsText = (): string => {
  const json = JSON.stringify(formatVectors(), null, 2)
  return `${json.replace(/[^\x20-\x7e\n]/g, letter => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`)}\n`
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) process.stdout.write(formatVectorsText())
