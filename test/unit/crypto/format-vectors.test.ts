/** docs/repository-format-vectors.json is made from the document alone; here the product has to give the same bytes. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { formatVectors, formatVectorsText } from '../../../scripts/format-vectors.ts'
import { domainId, hex, packId, repositoryId, unhex } from '../../../src/core/ids.ts'
import type { Random } from '../../../src/core/random.ts'
import { recordAad, recordAadPrefix } from '../../../src/crypto/aad.ts'
import { encodeConfig, parseConfig, verifyConfig } from '../../../src/crypto/config-mac.ts'
import { repositoryKeys, slotKey } from '../../../src/crypto/derive.ts'
import { openDomainKeys, sealDomainKeys } from '../../../src/crypto/domain-keys.ts'
import { openEnvelope, sealEnvelope } from '../../../src/crypto/envelope.ts'
import { openFooter, sealFooter } from '../../../src/crypto/footer.ts'
import { chunkId, newPackId, nodeId } from '../../../src/crypto/ids.ts'
import { parseKeyFile } from '../../../src/crypto/key-file.ts'
import {
  encodeKeySlot,
  isVouchedFor,
  parseKeySlot,
  unwrapKeySlot,
  wrapForKeyFile,
} from '../../../src/crypto/key-slot.ts'
import type { KeyKeeper } from '../../../src/crypto/keys.ts'
import { parseNode } from '../../../src/repository/node-codec.ts'
import { parseRows, parseTrailer } from '../../../src/repository/pack-codec.ts'
import { treeGeometry } from '../../../src/repository/tree-geometry.ts'
import { pipelines } from '../native/batches.ts'

const vectors = formatVectors()
const repository = repositoryId(vectors.repository)
const domain = domainId(vectors.domain)
const repositoryKey = unhex(vectors.repositoryKey)
const derived = repositoryKeys(repositoryKey, repository)
const keys = { ...derived, data: derived.data! }
const domainKeys = openDomainKeys(domain, 0, keys, unhex(vectors.domainKeys.object))
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

/** Gives the bytes that a vector was made with, in the order in which they are asked for. */
const scripted = (...bytes: string[]): Random => {
  const left = bytes.map(unhex)
  return length => {
    const next = left.shift()
    assert.equal(next?.length, length)
    return next!
  }
}

test('the vectors are what the document says', async () => {
  const file = new URL('../../../docs/repository-format-vectors.json', import.meta.url)
  assert.equal(await readFile(file, 'utf8'), formatVectorsText())
})

test('keys, slots, config and envelopes are byte for byte those of the vectors', async () => {
  for (const name of ['metadata', 'data', 'config', 'check', 'slots'] as const)
    assert.equal(hex(keys[name]), vectors.derived[name])

  const { keyFile, passphrase } = vectors
  const secret = parseKeyFile(keyFile.text, 'k')
  assert.equal(hex(secret), keyFile.secret)
  const slot = parseKeySlot(utf8(keyFile.object), keyFile.objectKey)
  assert.equal(hex(await unwrapKeySlot(slot, { kind: 'file', secret }, repository)), vectors.repositoryKey)
  const request = { repository, repositoryKey, created: slot.created, random: scripted(hex(slot.nonce)) }
  assert.equal(new TextDecoder().decode(encodeKeySlot(wrapForKeyFile(secret, request))), keyFile.object)
  const other = parseKeySlot(utf8(passphrase.object), passphrase.objectKey)
  const credential = { kind: 'passphrase', passphrase: passphrase.passphrase } as const
  assert.equal(hex(await unwrapKeySlot(other, credential, repository)), vectors.repositoryKey)
  assert.equal(new TextDecoder().decode(encodeKeySlot(other)), passphrase.object)
  assert.ok(isVouchedFor(slot, keys) && isVouchedFor(other, keys))
  for (const kind of ['command', 'pkcs11'] as const) {
    const vector = vectors[kind]
    const kept = parseKeySlot(utf8(vector.object), vector.objectKey)
    const keeper: KeyKeeper = {
      wrap: async () => new Uint8Array(0),
      unwrap: async () => unhex(vector.secret),
    }
    assert.equal(hex(await unwrapKeySlot(kept, { kind, label: '', keeper }, repository)), vectors.repositoryKey)
    assert.equal(new TextDecoder().decode(encodeKeySlot(kept)), vector.object)
    assert.ok(isVouchedFor(kept, keys))
  }

  const config = verifyConfig(parseConfig(utf8(vectors.config)), keys)
  assert.equal(new TextDecoder().decode(encodeConfig(config, keys)), vectors.config)

  const { metadataKey, nodeIdKey, dataKey, chunkIdKey } = domainKeys
  assert.ok(dataKey && chunkIdKey)
  const full = { domain, epoch: 0, metadataKey, nodeIdKey, dataKey, chunkIdKey }
  const sealed = sealDomainKeys(full, keys, scripted('51'.repeat(16), '52'.repeat(16)))
  assert.equal(hex(sealed), vectors.domainKeys.object)
  assert.deepEqual([hex(nodeIdKey), hex(chunkIdKey)], ['22'.repeat(32), '24'.repeat(32)])

  const { objectKey, plaintext, object } = vectors.envelope
  const place = { repository, kind: 'lease', objectKey } as const
  assert.equal(new TextDecoder().decode(openEnvelope(place, keys.metadata, unhex(object))), plaintext)
  assert.equal(hex(sealEnvelope(place, keys.metadata, utf8(plaintext), scripted('81'.repeat(16)))), object)
})

test('packs, records, chunks and nodes are byte for byte those of the vectors', async () => {
  const { dataPack, metaPack } = vectors
  const chunk = new Uint8Array(4096).fill(0x41)
  assert.equal(hex(chunkId(domainKeys.chunkIdKey!, chunk)), dataPack.id)
  const leaf = parseNode(unhex(metaPack.node), treeGeometry(metaPack.diskSize, 4096), 0, 0)
  assert.equal(hex(nodeId(domainKeys.nodeIdKey, leaf)), metaPack.id)
  for (const position of [1, 9]) assert.equal(leaf.ref(position)?.pack, dataPack.pack)

  for (const [kind, vector, idKey, key, content] of [
    ['data', dataPack, domainKeys.chunkIdKey!, domainKeys.dataKey!, chunk],
    ['meta', metaPack, domainKeys.nodeIdKey, domainKeys.metadataKey, unhex(metaPack.node)],
  ] as const) {
    const id = unhex(vector.id)
    const pack = packId(vector.pack)
    assert.equal(newPackId(scripted(vector.fresh), 0, idKey, id), pack)

    const object = unhex(vector.object)
    const trailer = parseTrailer(object.subarray(-64), object.length, vector.objectKey)
    assert.equal(trailer.pack, pack)
    const footer = object.subarray(trailer.bodyLength, trailer.bodyLength + trailer.footerLength)
    const place = { repository, objectKey: vector.objectKey }
    const rows = openFooter(place, domainKeys.metadataKey, footer)
    assert.equal(hex(rows), vector.rows)
    assert.equal(parseRows(rows, trailer, vector.objectKey).lengths[0], trailer.bodyLength)
    const salt = hex(footer.subarray(0, 16))
    assert.equal(hex(sealFooter(place, domainKeys.metadataKey, rows, scripted(salt))), vector.footer)

    const aadPrefix = recordAadPrefix({ repository, domain, kind, pack })
    assert.equal(hex(recordAad(aadPrefix, 0, id)), vector.aad)
    const secret = slotKey(key, pack)
    assert.equal(hex(secret), vector.slotKey)
    for (const [, pipeline] of pipelines) {
      const body = unhex(`${vector.plaintext}${'00'.repeat(16)}`)
      const batch = { body, lengths: Uint32Array.of(body.length), firstSlot: 0, ids: id, key: secret, aadPrefix }
      await pipeline.sealChunks(batch)
      assert.equal(hex(body), vector.stored)
      const record = {
        stored: unhex(vector.stored),
        slot: 0,
        id,
        key: secret,
        aadPrefix,
        target: new Uint8Array(content.length),
      }
      await pipeline.openChunks([record])
      assert.equal(hex(record.target), hex(content))
      assert.equal(hex((await pipeline.openNodes([record]))[0]!), hex(content))
    }
  }
})
