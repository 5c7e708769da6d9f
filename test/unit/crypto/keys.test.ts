import assert from 'node:assert/strict'
import { test } from 'node:test'
import { domainId, repositoryId } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { encodeConfig, parseConfig, verifyConfig } from '../../../src/crypto/config-mac.ts'
import { publicRepositoryKey, repositoryKeys } from '../../../src/crypto/derive.ts'
import { domainKeysObject, newDomainKeys, openDomainKeys, sealDomainKeys } from '../../../src/crypto/domain-keys.ts'
import { formatKeyFile, newKeyFileSecret, parseKeyFile } from '../../../src/crypto/key-file.ts'
import {
  encodeKeySlot,
  type KeySlot,
  keyFileSlot,
  keySlotObject,
  parseKeySlot,
  scryptDefault,
  unwrapKeySlot,
  wrapForKeyFile,
  wrapForPassphrase,
} from '../../../src/crypto/key-slot.ts'
import type { RepositoryKeys } from '../../../src/crypto/keys.ts'

const random = seededRandom('keys')
const repository = repositoryId('00112233445566778899aabbccddeeff')
const other = repositoryId('10112233445566778899aabbccddeeff')
const domain = domainId('0102030405060708')
const created = new Date('2026-11-21T12:00:00Z')
const repositoryKey = random(32)
const secret = newKeyFileSecret(random)
const cheap = { N: 16, r: 8, p: 1 }
const request = { repository, repositoryKey, created, random }
const json = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
const full = (keys: RepositoryKeys): Required<RepositoryKeys> => ({ ...keys, data: keys.data! })

test('a key file survives comments, blank lines and foreign line ends, and nothing else', () => {
  const text = formatKeyFile(secret, ['Lifeboat key of /backup', 'Keep a copy\nin another place'])
  assert.deepEqual(parseKeyFile(text, 'k'), secret)
  assert.deepEqual(parseKeyFile(`\r\n# x\r\n${text.replaceAll('\n', '\r\n')}`, 'k'), secret)
  assert.match(text, /^# Lifeboat.*\n# Keep a copy\n# in another place\nlifeboat-key-1:[A-Za-z0-9_-]{43}\n$/)
  for (const bad of [
    '',
    'hello',
    text + text,
    text.replace('-1:', '-2:'),
    text.slice(0, -2),
    `${text.trimEnd()}A`,
    `${text.trimEnd()}=`,
    text.replace('lifeboat', ' lifeboat'),
  ])
    assert.throws(() => parseKeyFile(bad, '/etc/key'), { code: 'key-wrong' }, bad)
  const quoted = (): unknown => parseKeyFile('lifeboat-key-1:tooshort-but-secret', '/etc/key')
  assert.throws(quoted, (error: Error) => !error.message.includes('secret') && error.message.includes('/etc/key'))
})

test('a key file opens its slot, which it finds by itself; another does not', async () => {
  const slot = wrapForKeyFile(secret, request)
  assert.equal(slot.slot, keyFileSlot(secret, repository))
  assert.notEqual(slot.slot, keyFileSlot(secret, other))
  const parsed = parseKeySlot(encodeKeySlot(slot), keySlotObject(slot.slot))
  assert.deepEqual(parsed, slot)
  assert.deepEqual(new Uint8Array(await unwrapKeySlot(parsed, { kind: 'file', secret }, repository)), repositoryKey)
  const wrong = { code: 'key-wrong' }
  await assert.rejects(unwrapKeySlot(parsed, { kind: 'file', secret: random(32) }, repository), wrong)
  await assert.rejects(unwrapKeySlot(parsed, { kind: 'file', secret }, other), wrong)
  await assert.rejects(unwrapKeySlot(parsed, { kind: 'passphrase', passphrase: 'x' }, repository), wrong)
  await assert.rejects(unwrapKeySlot(parsed, { kind: 'none' }, repository), wrong)
})

test('a passphrase opens its slot however its letters are composed', async () => {
  const slot = await wrapForPassphrase('Käse 42', request, { cost: cheap })
  const parsed = parseKeySlot(encodeKeySlot(slot), keySlotObject(slot.slot))
  const decomposed = { kind: 'passphrase', passphrase: 'Ka\u0308se 42' } as const
  assert.deepEqual(new Uint8Array(await unwrapKeySlot(parsed, decomposed, repository)), repositoryKey)
  await assert.rejects(unwrapKeySlot(parsed, { kind: 'passphrase', passphrase: 'Kase 42' }, repository), {
    code: 'key-wrong',
  })
  const aborted = { signal: AbortSignal.abort(new Error('stop')) }
  await assert.rejects(unwrapKeySlot(parsed, decomposed, repository, aborted), { message: 'stop' })
  assert.deepEqual(scryptDefault, { N: 131072, r: 8, p: 1 })
})

test("scrypt's cost is refused before it is paid", async () => {
  const slot = await wrapForPassphrase('x', request, { cost: cheap })
  assert.equal(slot.kind, 'passphrase')
  const at = keySlotObject(slot.slot)
  const withKdf = (kdf: object): Uint8Array => {
    const parsed: { kdf: object } = JSON.parse(new TextDecoder().decode(encodeKeySlot(slot)))
    return json({ ...parsed, kdf: { ...parsed.kdf, ...kdf } })
  }
  for (const kdf of [
    { N: 2 ** 21 },
    { N: 1 },
    { N: 0 },
    { N: 1000 },
    { N: 2 ** 52 },
    { r: 17 },
    { r: 0 },
    { p: 5 },
    { p: 0 },
    { N: 2 ** 20, r: 16 },
  ])
    assert.throws(() => parseKeySlot(withKdf(kdf), at), { code: 'absurd-object' }, JSON.stringify(kdf))
  for (const kdf of [
    { N: -16 },
    { N: '16' },
    { N: 16.5 },
    { salt: 'aa'.repeat(15) },
    { salt: 'aa'.repeat(65) },
    { salt: 5 },
    { name: 'argon2' },
  ])
    assert.throws(() => parseKeySlot(withKdf(kdf), at), { code: 'corrupt-object' }, JSON.stringify(kdf))
  assert.equal(parseKeySlot(withKdf({ N: 2 ** 19, r: 16, p: 4 }), at).kind, 'passphrase')
})

test('a key slot that is not what its place says is refused', () => {
  const slot: KeySlot = wrapForKeyFile(secret, request)
  const at = keySlotObject(slot.slot)
  const document: object = JSON.parse(new TextDecoder().decode(encodeKeySlot(slot)))
  const refused = (change: object, code: string): void =>
    assert.throws(() => parseKeySlot(json({ ...document, ...change }), at), { code }, JSON.stringify(change))
  refused({ format: 2, kind: 'quantum' }, 'newer-format')
  refused({ format: 0 }, 'corrupt-object')
  refused({ format: '1' }, 'corrupt-object')
  refused({ kind: 'quantum' }, 'corrupt-object')
  refused({ slot: '0000000000000000' }, 'corrupt-object')
  refused({ nonce: 'abc' }, 'corrupt-object')
  refused({ wrapped: 'AA'.repeat(48) }, 'corrupt-object')
  refused({ created: 'yesterday' }, 'corrupt-object')
  refused({ filler: 'x'.repeat(65_536) }, 'absurd-object')
  for (const bytes of ['', '[]', 'null', '{', '"x"'])
    assert.throws(() => parseKeySlot(Buffer.from(bytes), at), { code: 'corrupt-object' })
})

test('domain keys: a holder of metadata gets no data keys, and every byte counts', () => {
  const holder = full(repositoryKeys(repositoryKey, repository))
  const keys = newDomainKeys(domain, 0, random)
  const sealed = sealDomainKeys(keys, holder, random)
  assert.deepEqual(openDomainKeys(domain, 0, holder, sealed), keys)
  const { data: _, ...metadataOnly } = holder
  const { metadataKey, nodeIdKey } = keys
  assert.deepEqual(openDomainKeys(domain, 0, metadataOnly, sealed), { domain, epoch: 0, metadataKey, nodeIdKey })
  const object = { code: 'corrupt-object', message: /keys\/0102030405060708\/0/ }
  for (let at = 0; at < sealed.length; at++) {
    const flipped = sealed.map((byte, index) => (index === at ? byte ^ 0x80 : byte))
    assert.throws(() => openDomainKeys(domain, 0, holder, flipped), object, `byte ${at}`)
  }
  assert.throws(() => openDomainKeys(domain, 0, holder, sealed.subarray(1)), object)
  assert.throws(() => openDomainKeys(domain, 1, holder, sealed), { code: 'corrupt-object' })
  assert.throws(() => openDomainKeys(domain, 0, repositoryKeys(random(32), repository), sealed), object)
  assert.equal(domainKeysObject(domain, 255), 'keys/0102030405060708/255')

  const next = newDomainKeys(domain, 1, random, keys)
  assert.deepEqual([next.nodeIdKey, next.chunkIdKey], [keys.nodeIdKey, keys.chunkIdKey])
  assert.notDeepEqual(next.dataKey, keys.dataKey)
})

const config = {
  repository,
  created,
  chunkSize: 65536,
  encryption: 'aes-256-gcm',
  domain,
  store: { kind: 'directory' },
} as const

test('config is believed only with its MAC, and what does not fit keys that a slot has proven is damage', () => {
  const keys = repositoryKeys(repositoryKey, repository)
  const bytes = encodeConfig(config, keys)
  assert.deepEqual(verifyConfig(parseConfig(bytes), keys), config)
  const wrong = repositoryKeys(random(32), repository)
  assert.throws(() => verifyConfig(parseConfig(bytes), wrong), { code: 'corrupt-object' })
  const text = new TextDecoder().decode(bytes)
  const damaged =
    (from: string | RegExp, to: string): (() => unknown) =>
    () =>
      verifyConfig(parseConfig(Buffer.from(text.replace(from, to))), keys)
  assert.throws(damaged('65536', '32768'), { code: 'corrupt-object' })
  assert.throws(damaged('directory', 'directorY'), { code: 'corrupt-object' })
  assert.throws(damaged(/..("})$/, '00$1'), { code: 'corrupt-object' })
  assert.throws(damaged(/$/, '\n'), { code: 'corrupt-object' })
  assert.throws(damaged(/"keyCheck":"../, '"keyCheck":"00'), { code: 'corrupt-object' })

  const open = encodeConfig({ ...config, encryption: 'none' }, repositoryKeys(publicRepositoryKey(), repository))
  const rotten = Buffer.from(
    new TextDecoder().decode(open).replace(/"keyCheck":"../, '"keyCheck":"zz'.replace('zz', '00')),
  )
  const read = (): unknown => verifyConfig(parseConfig(rotten), repositoryKeys(publicRepositoryKey(), repository))
  assert.throws(read, { code: 'corrupt-object' })
})

test('a newer format is refused before anything else of config is looked at', () => {
  assert.throws(() => parseConfig(json({ format: 2 })), { code: 'newer-format', message: /format 2/ })
  assert.throws(() => parseConfig(json({ format: 1 })), { code: 'corrupt-object' })
  assert.throws(() => parseConfig(json({ hello: 1 })), { code: 'corrupt-object' })
  assert.throws(() => parseConfig(new Uint8Array(1024 * 1024 + 1)), { code: 'absurd-object' })
  const text = new TextDecoder().decode(encodeConfig(config, repositoryKeys(repositoryKey, repository)))
  for (const [from, to] of [
    ['65536', '65537'],
    ['65536', '8388608'],
    ['65536', '0'],
    ['aes-256', 'rot-13'],
    ['hmac-sha-256', 'md5'],
    ['zstd', 'lz4'],
    ['"domain":"01', '"domain":"0'],
    ['2026-11', '2026-99'],
  ] as const)
    assert.throws(() => parseConfig(Buffer.from(text.replace(from, to))), { code: 'corrupt-object' }, to)
})
