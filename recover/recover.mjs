#!/usr/bin/env node
/**
 * The last resort: restores one disk of one recovery point from a Lifeboat repository in a directory, when Lifeboat itself
 * is gone. One file, Node 22.15 or later, no packages. Written from docs/repository-format.md (format 1) alone; it shares no
 * code with Lifeboat, so that each proves the other. Section numbers below are those of that page.
 *
 *   node recover.mjs --repo DIR [--key-file F]                                lists the points
 *   node recover.mjs --repo DIR [--key-file F] VM@ID/DISK --output PATH       restores a disk as a sparse raw image
 *
 * Without --key-file the passphrase is taken from LIFEBOAT_PASSPHRASE; an unencrypted repository needs neither.
 * Exit codes: 0 done, 1 failed, 2 usage or key, 4 the repository is damaged there.
 */
import { createDecipheriv, createHash, createHmac, hkdfSync, scryptSync, timingSafeEqual } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { crc32, zstdDecompressSync } from 'node:zlib'

const MiB = 1024 * 1024
const PREFIX = Buffer.from('lifeboat/1\0')

class Stop extends Error {
  constructor(message, exitCode = 1) {
    super(message)
    this.exitCode = exitCode
  }
}
const usage = message => new Stop(message, 2)
const damaged = (key, what) => new Stop(`${key}: ${what}`, 4)
const parseJson = (bytes, key) => {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    throw damaged(key, 'is not JSON')
  }
}
const require_ = (condition, key, what) => {
  if (!condition) throw damaged(key, what)
}

// --- The store: a key is the path below the folder (section 0). ---

class Store {
  constructor(root) {
    this.root = root
  }
  path(key) {
    return path.join(this.root, ...key.split('/'))
  }
  has(key) {
    return fs.existsSync(this.path(key))
  }
  size(key) {
    return fs.statSync(this.path(key)).size
  }
  get(key, most) {
    let size
    try {
      size = this.size(key)
    } catch (error) {
      throw error.code === 'ENOENT' ? damaged(key, 'is missing') : error
    }
    require_(size <= most, key, `has ${size} bytes, more than the ${most} that it may have`)
    return fs.readFileSync(this.path(key))
  }
  /** The bytes at [offset, offset + length), or undefined where the object is absent. */
  range(key, offset, length) {
    let fd
    try {
      fd = fs.openSync(this.path(key), 'r')
    } catch (error) {
      if (error.code === 'ENOENT') return undefined
      throw error
    }
    try {
      const bytes = Buffer.alloc(length)
      const got = fs.readSync(fd, bytes, 0, length, offset)
      require_(got === length, key, `ends before byte ${offset + length}`)
      return bytes
    } finally {
      fs.closeSync(fd)
    }
  }
  /** Names in a folder of keys, without unfinished writes. */
  names(folder) {
    try {
      return fs
        .readdirSync(this.path(folder))
        .filter(name => !name.startsWith('.tmp-'))
        .sort()
    } catch (error) {
      if (error.code === 'ENOENT') return []
      throw error
    }
  }
}

// --- Keys (sections 1 and 2). ---

const hkdf = (key, salt, info) => Buffer.from(hkdfSync('sha256', key, salt, info, 32))
const hmac = (key, ...parts) => parts.reduce((mac, part) => mac.update(part), createHmac('sha256', key)).digest()

/** GCM of section 0, opened; undefined where the tag is wrong. */
function open(key, nonce, aad, sealed) {
  if (sealed.length < 16) return undefined
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 }).setAAD(aad)
  decipher.setAuthTag(sealed.subarray(sealed.length - 16))
  try {
    return Buffer.concat([decipher.update(sealed.subarray(0, sealed.length - 16)), decipher.final()])
  } catch {
    return undefined
  }
}

function readKeyFile(file) {
  const lines = fs
    .readFileSync(file, 'utf8')
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'))
  const match = lines.length === 1 && /^lifeboat-key-1:([A-Za-z0-9_-]{43})$/.exec(lines[0])
  if (!match) throw usage(`${file} is not a Lifeboat key file`)
  return Buffer.from(match[1], 'base64url')
}

function unwrap(slot, slotName, wrappingKey, repository) {
  const aad = Buffer.concat([PREFIX, repository, Buffer.from('key\0'), Buffer.from(slotName, 'hex')])
  return open(wrappingKey, Buffer.from(slot.nonce, 'hex'), aad, Buffer.from(slot.wrapped, 'hex'))
}

function readSlot(store, name) {
  const slot = parseJson(store.get(`keys/${name}`, 64 * 1024), `keys/${name}`)
  require_(slot?.format === 1 && slot.slot === name, `keys/${name}`, 'is not a key slot of format 1')
  return slot
}

function scryptKey(kdf, passphrase, key) {
  const salt = Buffer.from(kdf.salt, 'hex')
  const power = Math.log2(kdf.N)
  const sane = kdf.name === 'scrypt' && Number.isInteger(power) && power >= 1 && power <= 20
  const small = kdf.r >= 1 && kdf.r <= 16 && kdf.p >= 1 && kdf.p <= 4 && kdf.N * kdf.r <= 2 ** 23
  require_(sane && small, key, 'has an absurd key derivation')
  require_(salt.length >= 16 && salt.length <= 64, key, 'has an absurd salt')
  const { N, r, p } = kdf
  return scryptSync(passphrase.normalize('NFC'), salt, 32, { N, r, p, maxmem: 129 * N * r + 1024 * r * p + MiB })
}

/** The cheapest first. Slots of other kinds need the command or token of their host: use a key file or passphrase instead. */
function passphraseSlots(store) {
  const found = []
  for (const name of store.names('keys').slice(0, 10000)) {
    if (!/^[0-9a-f]{16}$/.test(name) || !fs.statSync(store.path(`keys/${name}`)).isFile()) continue
    try {
      const slot = readSlot(store, name)
      if (slot.kind === 'passphrase') found.push({ name, slot, cost: slot.kdf.N * slot.kdf.r * slot.kdf.p })
    } catch (error) {
      process.stderr.write(`recover: passed over keys/${name}: ${error.message}\n`)
    }
  }
  return found.sort((a, b) => a.cost - b.cost).slice(0, 32)
}

function repositoryKey(store, config, repository, { keyFile, passphrase }) {
  if (config.encryption === 'none') return Buffer.alloc(32)
  if (keyFile) {
    const secret = readKeyFile(keyFile)
    const name = hmac(secret, 'lifeboat/1 slot', repository).subarray(0, 8).toString('hex')
    if (!store.has(`keys/${name}`)) throw usage('this key file has no slot in this repository: it is the wrong one')
    const key = unwrap(readSlot(store, name), name, hkdf(secret, repository, 'lifeboat/1 key file'), repository)
    if (!key) throw damaged(`keys/${name}`, 'does not open with the key file that it is named after')
    return key
  }
  if (passphrase === undefined) throw usage('the repository is encrypted: give --key-file, or LIFEBOAT_PASSPHRASE')
  // Slots lie in the clear and may be damaged or planted: such are passed over, and all together cost no more than a minute.
  let work = 0
  for (const { name, slot } of passphraseSlots(store))
    try {
      work += slot.kdf.N * slot.kdf.r * slot.kdf.p
      if (work > 2 ** 26) break
      const key = unwrap(slot, name, scryptKey(slot.kdf, passphrase, `keys/${name}`), repository)
      if (key) return key
    } catch (error) {
      process.stderr.write(`recover: passed over keys/${name}: ${error.message}\n`)
    }
  throw usage('the passphrase opens no slot of this repository')
}

function openRepository(store, credential) {
  if (!store.has('config')) throw usage(`${store.root} is not a Lifeboat repository: it has no 'config'`)
  const bytes = store.get('config', MiB)
  const config = parseJson(bytes, 'config')
  if (config.format > 1) throw usage(`format ${config.format} is newer than this program, which reads format 1`)
  require_(config.format === 1 && /^[0-9a-f]{32}$/.test(config.repository), 'config', 'is not of format 1')
  const repository = Buffer.from(config.repository, 'hex')
  const key = repositoryKey(store, config, repository, credential)
  const check = hkdf(key, repository, 'lifeboat/1 check').subarray(0, 16)
  if (check.toString('hex') !== config.keyCheck) throw usage('the key is not that of this repository')
  const at = bytes.lastIndexOf(',"mac":"')
  const mac = hmac(hkdf(key, repository, 'lifeboat/1 config'), bytes.subarray(0, at))
  const stored = Buffer.from(config.mac, 'hex')
  require_(stored.length === 32 && timingSafeEqual(mac, stored), 'config', 'was changed: its MAC is wrong')
  const metadata = hkdf(key, repository, 'lifeboat/1 metadata')
  const data = hkdf(key, repository, 'lifeboat/1 data')
  return { store, config, repository, metadata, data, domains: new Map(), slotKeys: new Map(), rewritten: new Map() }
}

/** Section 3. */
function openEnvelope(repo, key, kind, objectKey, bytes) {
  require_(bytes.length >= 36 && bytes.subarray(0, 4).toString('latin1') === 'LBE1', objectKey, 'is no envelope')
  const aad = Buffer.concat([PREFIX, repo.repository, Buffer.from(`${kind}\0${objectKey}`)])
  const plain = open(hkdf(key, bytes.subarray(4, 20), 'lifeboat/1 envelope'), Buffer.alloc(12), aad, bytes.subarray(20))
  require_(plain, objectKey, 'does not authenticate')
  return plain
}

function domainKeys(repo, domain, epoch) {
  const key = `keys/${domain}/${epoch}`
  let keys = repo.domains.get(key)
  if (!keys) {
    const bytes = repo.store.get(key, 64 * 1024)
    const first = bytes.readUInt32BE(0)
    require_(first <= bytes.length - 4, key, 'is torn')
    const metadata = openEnvelope(repo, repo.metadata, 'domain-metadata', key, bytes.subarray(4, 4 + first))
    const data = openEnvelope(repo, repo.data, 'domain-data', key, bytes.subarray(4 + first))
    require_(metadata.length === 64 && data.length === 64, key, 'has sections of a wrong length')
    const half = (bytes_, at) => bytes_.subarray(at, at + 32)
    keys = { metadata: half(metadata, 0), nodeId: half(metadata, 32), data: half(data, 0), chunkId: half(data, 32) }
    repo.domains.set(key, keys)
  }
  return keys
}

// --- Records and packs (section 4). ---

const KIND = { data: { folder: 'packs', code: 1 }, meta: { folder: 'meta', code: 2 } }

const packKey = (kind, domain, pack) =>
  `${KIND[kind].folder}/${domain}/${pack.subarray(1, 2).toString('hex')}/${pack.toString('hex')}`

function openRecord(repo, domain, kind, pack, slot, id, stored, most) {
  const name = `${kind}/${domain}/${pack.toString('hex')}`
  let key = repo.slotKeys.get(name)
  if (!key) {
    const keys = domainKeys(repo, domain, pack[0])
    key = hkdf(kind === 'data' ? keys.data : keys.metadata, pack, 'lifeboat/1 pack')
    if (repo.slotKeys.size > 1000) repo.slotKeys.clear()
    repo.slotKeys.set(name, key)
  }
  const number = Buffer.alloc(4)
  number.writeUInt32BE(slot)
  const code = Buffer.of(KIND[kind].code)
  const aad = Buffer.concat([PREFIX, repo.repository, Buffer.from(domain, 'hex'), code, pack, number, id])
  const plain = open(key, Buffer.concat([Buffer.alloc(8), number]), aad, stored)
  if (!plain || plain.length < 4) return undefined
  const length = plain.readUIntBE(1, 3)
  if (length > most) return undefined
  const payload = plain.subarray(4)
  if (plain[0] === 0) return payload.length === length ? payload : undefined
  if (plain[0] !== 1) return undefined
  try {
    const content = zstdDecompressSync(payload, { maxOutputLength: Math.max(1, length) })
    return content.length === length ? content : undefined
  } catch {
    return undefined
  }
}

/** Rows of a rewritten object `<pack>.<run>`: content id prefix -> where the record lies, and what it was sealed for. None where it is torn. */
function rewrittenRows(repo, domain, kind, key) {
  let rows = repo.rewritten.get(key)
  if (rows !== undefined) return rows
  rows = new Map()
  repo.rewritten.set(key, rows)
  const size = repo.store.size(key)
  if (size < 64 || size > 288 * MiB) return rows
  const trailer = repo.store.range(key, size - 64, 64)
  const count = trailer.readUInt32BE(28)
  const body = Number(trailer.readBigUInt64BE(32))
  const footer = trailer.readUInt32BE(40)
  const sane =
    trailer.subarray(0, 8).toString('latin1') === 'LBPACK1\n' &&
    crc32(trailer.subarray(0, 60)) === trailer.readUInt32BE(60) &&
    trailer[8] === KIND[kind].code &&
    (trailer[10] & 1) === 1 &&
    count <= 65535 &&
    footer <= 3 * MiB &&
    body + footer + trailer.readUInt32BE(44) + 64 === size
  if (!sane) return rows
  const sealed = repo.store.range(key, body, footer)
  const metadata = domainKeys(repo, domain, trailer[9]).metadata
  const aad = Buffer.concat([PREFIX, repo.repository, Buffer.from(`footer\0${key}`)])
  const plain = open(
    hkdf(metadata, sealed.subarray(0, 16), 'lifeboat/1 footer'),
    Buffer.alloc(12),
    aad,
    sealed.subarray(16),
  )
  if (!plain || plain.length !== count * 41) return rows
  let offset = 0
  for (let row = 0; row < count; row++) {
    const at = row * 41
    const length = plain.readUIntBE(at + 20, 3)
    const origin = { pack: plain.subarray(at + 23, at + 39), slot: plain.readUInt16BE(at + 39) }
    rows.set(plain.subarray(at, at + 20).toString('hex'), { offset, length, ...origin })
    offset += length
  }
  return rows
}

/** Section 5, last paragraph: the place in the entry, then every rewritten object of that pack. */
function readRecord(repo, domain, kind, entry, most) {
  const key = packKey(kind, domain, entry.pack)
  let what = 'is missing'
  try {
    const stored = repo.store.range(key, entry.offset, entry.length)
    const content = stored && openRecord(repo, domain, kind, entry.pack, entry.slot, entry.id, stored, most)
    if (content) return content
    if (stored) what = `slot ${entry.slot} does not authenticate`
  } catch (error) {
    if (error.exitCode !== 4) throw error
    what = error.message
  }
  const folder = path.posix.dirname(key)
  const pack = entry.pack.toString('hex')
  for (const name of repo.store.names(folder)) {
    if (!name.startsWith(`${pack}.`)) continue
    const place = rewrittenRows(repo, domain, kind, `${folder}/${name}`).get(entry.id.subarray(0, 20).toString('hex'))
    const stored = place && repo.store.range(`${folder}/${name}`, place.offset, place.length)
    const content = stored && openRecord(repo, domain, kind, place.pack, place.slot, entry.id, stored, most)
    if (content) return content
  }
  throw damaged(key, `${what}, and no rewritten copy of slot ${entry.slot} is there`)
}

// --- Trees (section 5). ---

/** Node counts of each level, leaves first, up to the top level. */
function levelsOf(size, chunkSize) {
  const counts = [Math.ceil(Math.ceil(size / chunkSize) / 64)]
  while (counts.at(-1) > 4096) counts.push(Math.ceil(counts.at(-1) / 256))
  return counts
}

function parseNode(bytes, level, width, key) {
  const need = length => require_(at + length <= bytes.length, key, 'is cut short')
  let at = 0
  need(12)
  const packCount = bytes.readUInt16BE(2)
  const present = bytes.readUInt32BE(8)
  require_(
    bytes[0] === 1 && bytes[1] === level && bytes.readUInt32BE(4) === width,
    key,
    'is not the node expected here',
  )
  require_(present <= width, key, 'counts more entries than positions')
  at = 12
  const bitmapLength = Math.ceil(width / 8)
  need(bitmapLength + packCount * 16 + present * 32)
  const take = length => {
    at += length
    return bytes.subarray(at - length, at)
  }
  const bitmap = take(bitmapLength)
  const packs = Array.from({ length: packCount }, () => take(16))
  const ids = take(present * 32)
  const varint = () => {
    let value = 0
    for (let shift = 0; shift < 8; shift++) {
      need(1)
      const byte = bytes[at++]
      value += (byte & 0x7f) * 2 ** (7 * shift)
      if (byte < 0x80) {
        require_(value <= Number.MAX_SAFE_INTEGER, key, 'has an absurd number')
        return value
      }
    }
    throw damaged(key, 'has an absurd number')
  }
  const places = []
  while (places.length < present) {
    const count = varint()
    const pack = packs[varint()]
    const slot = varint()
    let offset = varint()
    require_(count >= 1 && places.length + count <= present && pack, key, 'has an absurd run')
    require_(slot + count - 1 <= 65534, key, 'has an absurd slot')
    for (let n = 0; n < count; n++) {
      const length = varint()
      require_(length >= 20 && offset + length <= 288 * MiB, key, 'has an absurd place')
      places.push({ pack, slot: slot + n, offset, length })
      offset += length
    }
  }
  require_(at === bytes.length, key, 'has bytes after its end')
  const entries = []
  let next = 0
  for (let position = 0; position < width; position++) {
    if (!(bitmap[position >> 3] & (1 << (position & 7)))) continue
    require_(next < present, key, 'has more bits than entries')
    entries.push({ position, id: ids.subarray(next * 32, next * 32 + 32), ...places[next] })
    next++
  }
  require_(next === present, key, 'has fewer bits than entries')
  return { entries, bitmap, ids }
}

/** Calls `chunk(index, entry)` for each stored chunk, in rising order. */
function walk(repo, domain, disk, node, level, index, chunk) {
  for (const entry of node.entries) {
    const child = level === disk.level + 1 ? entry.position : index * (level === 0 ? 64 : 256) + entry.position
    if (level === 0) {
      chunk(child, entry)
      continue
    }
    const key = packKey('meta', domain, entry.pack)
    const bytes = readRecord(repo, domain, 'meta', entry, MiB)
    const below = level - 1
    const parsed = parseNode(bytes, below, below === 0 ? 64 : 256, key)
    require_(
      nodeId(repo, domain, disk, parsed, below).equals(entry.id),
      key,
      `slot ${entry.slot} has another content id`,
    )
    walk(repo, domain, disk, parsed, below, child, chunk)
  }
}

function nodeId(repo, domain, disk, { bitmap, ids }, level) {
  const head = Buffer.alloc(9)
  head[0] = level
  head.writeUInt32BE(level === 0 ? 64 : 256, 1)
  head.writeUInt32BE(disk.chunkSize, 5)
  return hmac(domainKeys(repo, domain, 0).nodeId, 'lifeboat/1 node', head, bitmap, ids)
}

// --- Manifests (section 6). ---

const decodeName = name => decodeURIComponent(name)

function* pointsOf(store) {
  for (const vm of store.names('points'))
    for (const name of store.names(`points/${vm}`)) {
      const match = /^(\d{8}T\d{6}Z)-([0-9a-f]{16})$/.exec(name)
      if (match) yield { vm: decodeName(vm), time: match[1], id: match[2], key: `points/${vm}/${name}` }
    }
}

function readManifest(repo, point) {
  const bytes = repo.store.get(point.key, 128 * MiB)
  const plain = openEnvelope(repo, repo.metadata, 'manifest', point.key, bytes)
  const length = plain.readUInt32BE(0)
  require_(length <= plain.length - 4, point.key, 'is cut short')
  const manifest = JSON.parse(plain.subarray(4, 4 + length).toString('utf8'))
  require_(manifest.format === 1 && manifest.point === point.id, point.key, 'is not the manifest of its name')
  require_(manifest.vm === point.vm, point.key, 'belongs to another VM')
  return { ...manifest, blobs: plain.subarray(4 + length) }
}

function stateOf(store, point, manifest) {
  if (store.has(`forgotten/${point.id}`)) return 'forgotten'
  return store.names(`fences/${manifest.lease}`).length > 0 ? 'void' : 'committed'
}

function topList(manifest, disk, key) {
  const { size, chunkSize } = disk
  require_(Number.isSafeInteger(size) && size >= 0, key, `disk ${disk.name} has an absurd size`)
  const power = Math.log2(chunkSize)
  require_(Number.isInteger(power) && power >= 12 && power <= 22, key, `disk ${disk.name} has an absurd chunk size`)
  const counts = levelsOf(size, chunkSize)
  require_(disk.level === counts.length - 1, key, `disk ${disk.name} has another depth than its size gives`)
  const [offset, length] = disk.top
  require_(offset >= 0 && length >= 0 && offset + length <= manifest.blobs.length, key, 'names bytes past its end')
  const node = parseNode(manifest.blobs.subarray(offset, offset + length), disk.level + 1, counts.at(-1), key)
  const head = Buffer.alloc(13)
  head.writeBigUInt64BE(BigInt(size), 0)
  head.writeUInt32BE(chunkSize, 8)
  head[12] = disk.level
  const root = [Buffer.from(disk.salt, 'hex'), head, node.bitmap, node.ids]
    .reduce((hash, part) => hash.update(part), createHash('sha256'))
    .digest('hex')
  require_(root === disk.root, key, `disk ${disk.name} has another root than its entries give`)
  return node
}

function restore(repo, point, manifest, diskName, output) {
  const disk = manifest.disks.find(({ name }) => name === diskName)
  if (!disk)
    throw usage(`the point has no disk '${diskName}', only ${manifest.disks.map(({ name }) => name).join(', ')}`)
  const top = topList(manifest, disk, point.key)
  const { chunkSize, size } = disk
  const chunkIdKey = domainKeys(repo, manifest.domain, 0).chunkId
  const unfinished = `${output}.unfinished`
  const fd = fs.openSync(unfinished, 'wx')
  let chunks = 0
  try {
    fs.ftruncateSync(fd, size)
    walk(repo, manifest.domain, disk, top, disk.level + 1, 0, (index, entry) => {
      const offset = index * chunkSize
      require_(offset < size, point.key, `disk ${disk.name} has a chunk past its end`)
      const content = readRecord(repo, manifest.domain, 'data', entry, chunkSize)
      const key = packKey('data', manifest.domain, entry.pack)
      require_(content.length === chunkSize, key, `slot ${entry.slot} is not one chunk`)
      require_(hmac(chunkIdKey, content).equals(entry.id), key, `slot ${entry.slot} holds another chunk`)
      const length = Math.min(chunkSize, size - offset)
      require_(
        fs.writeSync(fd, content, 0, length, offset) === length,
        output,
        'was not written whole: is the disk full?',
      )
      chunks++
    })
    fs.fsyncSync(fd)
    fs.closeSync(fd)
    fs.renameSync(unfinished, output)
  } catch (error) {
    fs.rmSync(unfinished, { force: true })
    throw error
  }
  process.stdout.write(`restored ${diskName}: ${size} bytes, ${chunks} chunks checked, to ${output}\n`)
}

function main(argv, environment) {
  const options = {}
  const words = []
  for (let at = 0; at < argv.length; at++) {
    const name = { '--repo': 'repo', '--key-file': 'keyFile', '--output': 'output' }[argv[at]]
    if (name) options[name] = argv[++at]
    else if (argv[at].startsWith('--')) throw usage(`unknown option ${argv[at]}`)
    else words.push(argv[at])
  }
  if (!options.repo || words.length > 1)
    throw usage('usage: node recover.mjs --repo DIR [--key-file F] [VM@ID/DISK --output PATH]')
  const store = new Store(options.repo)
  const repo = openRepository(store, { keyFile: options.keyFile, passphrase: environment.LIFEBOAT_PASSPHRASE })
  if (words.length === 0) {
    for (const point of pointsOf(store)) {
      const manifest = readManifest(repo, point)
      const disks = manifest.disks.map(({ name, size }) => `${name} (${size} bytes)`).join(', ')
      process.stdout.write(
        `${point.vm}@${point.id}  ${manifest.takenAt}  ${stateOf(store, point, manifest)}  ${disks}\n`,
      )
    }
    return
  }
  const match = /^(.+)@([0-9a-f]{1,16}|latest)\/([^/]+)$/.exec(words[0])
  if (!match || !options.output) throw usage('name a disk as VM@ID/DISK and a place with --output PATH')
  const [, vm, id, disk] = match
  const candidates = [...pointsOf(store)]
    .filter(point => point.vm === vm && (id === 'latest' || point.id.startsWith(id)))
    .map(point => ({ point, manifest: readManifest(repo, point) }))
    .filter(({ point, manifest }) => stateOf(store, point, manifest) === 'committed')
  if (id !== 'latest' && candidates.length > 1)
    throw usage(`${words[0]} fits ${candidates.length} points: write more letters`)
  const chosen = candidates.at(-1)
  if (!chosen) throw usage(`no committed point fits ${words[0]}`)
  if (fs.existsSync(options.output)) throw usage(`${options.output} exists: choose another place`)
  restore(repo, chosen.point, chosen.manifest, disk, options.output)
}

try {
  if (!zstdDecompressSync) throw usage('this program needs Node 22.15 or later: its zlib has no zstd')
  main(process.argv.slice(2), process.env)
} catch (error) {
  process.stderr.write(`recover: ${error.message}\n`)
  process.exitCode = error.exitCode ?? 1
}
