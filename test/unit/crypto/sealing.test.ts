import assert from 'node:assert/strict'
import { test } from 'node:test'
import { domainId, hex, packId, repositoryId, unhex } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { recordAad, recordAadPrefix } from '../../../src/crypto/aad.ts'
import { hkdf } from '../../../src/crypto/derive.ts'
import { openEnvelope, sealEnvelope } from '../../../src/crypto/envelope.ts'
import { openFooter, sealFooter } from '../../../src/crypto/footer.ts'
import { gcmOpen, gcmSeal, ZERO_NONCE } from '../../../src/crypto/gcm.ts'
import { chunkId, newPackId, nodeId } from '../../../src/crypto/ids.ts'

const random = seededRandom('sealing')
const repository = repositoryId('00112233445566778899aabbccddeeff')
const other = repositoryId('10112233445566778899aabbccddeeff')
const key = random(32)
const text = (value: string): Uint8Array => new TextEncoder().encode(value)

const flips = function* (bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at++) yield bytes.map((byte, index) => (index === at ? byte ^ 1 : byte))
}

test('HKDF, HMAC and GCM give the answers of RFC 5869, RFC 4231 and the GCM specification', () => {
  const okm = '8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d'
  assert.equal(hex(hkdf(unhex('0b'.repeat(22)), new Uint8Array(0), '')), okm)
  const hiThere = 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7'
  assert.equal(hex(chunkId(unhex('0b'.repeat(20)), text('Hi There'))), hiThere)
  const sealed = gcmSeal(new Uint8Array(32), ZERO_NONCE, new Uint8Array(0), new Uint8Array(16))
  assert.equal(hex(sealed), 'cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919')
  assert.equal(
    hex(gcmSeal(new Uint8Array(32), ZERO_NONCE, new Uint8Array(0), new Uint8Array(0))),
    '530f8afbc74536b9a963b4f1c4cb738b',
  )
  assert.equal(gcmOpen(new Uint8Array(32), ZERO_NONCE, new Uint8Array(0), sealed.subarray(0, 15)), undefined)
})

test('an envelope opens only whole, in its place, and under its key', () => {
  const place = { repository, kind: 'manifest', objectKey: 'points/web1/x' } as const
  const sealed = sealEnvelope(place, key, text('content'), random)
  assert.equal(new TextDecoder().decode(openEnvelope(place, key, sealed)), 'content')
  const refused = { code: 'corrupt-object', details: { object: place.objectKey } }
  const isRefused = (error: { code: string; details: { object: string } }): boolean =>
    error.code === refused.code && error.details.object === refused.details.object
  for (const flipped of flips(sealed)) assert.throws(() => openEnvelope(place, key, flipped), isRefused)
  for (let length = 0; length < sealed.length; length++)
    assert.throws(() => openEnvelope(place, key, sealed.subarray(0, length)), isRefused)
  assert.throws(() => openEnvelope(place, random(32), sealed), isRefused)
  assert.throws(() => openEnvelope({ ...place, repository: other }, key, sealed), isRefused)
  assert.throws(() => openEnvelope({ ...place, kind: 'pin' }, key, sealed), isRefused)
  assert.throws(() => openEnvelope({ ...place, objectKey: 'points/web1/y' }, key, sealed), { code: 'corrupt-object' })
  assert.notDeepEqual(sealEnvelope(place, key, text('content'), random), sealed)
})

test("a footer opens only whole and as its pack's", () => {
  const place = { repository, objectKey: 'packs/d/00/p' }
  const sealed = sealFooter(place, key, random(46), random)
  assert.equal(openFooter(place, key, sealed).length, 46)
  for (const flipped of flips(sealed)) assert.throws(() => openFooter(place, key, flipped), { code: 'corrupt-object' })
  assert.throws(() => openFooter(place, key, sealed.subarray(0, 20)), { code: 'corrupt-object' })
  assert.throws(() => openFooter({ ...place, objectKey: 'packs/d/00/q' }, key, sealed), { code: 'corrupt-object' })
})

test('ids depend on every part of what they name', () => {
  const node = { level: 1, width: 256, chunkSize: 65536, bitmap: Uint8Array.of(1, 2), ids: random(64) }
  const variants = [
    node,
    { ...node, level: 2 },
    { ...node, width: 64 },
    { ...node, chunkSize: 4096 },
    { ...node, bitmap: Uint8Array.of(1, 3) },
    { ...node, ids: random(64) },
  ]
  assert.equal(new Set([...variants.map(variant => hex(nodeId(key, variant))), hex(nodeId(random(32), node))]).size, 7)

  const same = () => seededRandom('pack')
  const pack = newPackId(same(), 7, key, node.ids)
  assert.match(pack, /^07[0-9a-f]{30}$/)
  assert.equal(newPackId(same(), 7, key, node.ids), pack)
  assert.notEqual(newPackId(same(), 7, key, random(64)), pack)
  assert.notEqual(newPackId(random, 7, key, node.ids), pack)
})

test('the AAD of a record names repository, domain, kind, pack, slot and content', () => {
  const place = {
    repository,
    domain: domainId('0102030405060708'),
    kind: 'data',
    pack: packId('00'.repeat(16)),
  } as const
  const prefix = recordAadPrefix(place)
  assert.equal(prefix.length, 52)
  const full = hex(recordAad(prefix, 0x01020304, new Uint8Array(32).fill(0xcc)))
  const expected = `${hex(text('lifeboat/1\0'))}${repository}0102030405060708${'01'}${'00'.repeat(16)}01020304${'cc'.repeat(32)}`
  assert.equal(full, expected)
  assert.equal(recordAadPrefix({ ...place, kind: 'meta' })[35], 2)
})
