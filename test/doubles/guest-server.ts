/**
 * The other side of the guest protocol in a few lines: a volume with a file, a link and a folder of many, served over a stream in this
 * process. What it answers can be changed on its way: by tests that lie, dawdle or die.
 */
import { type Duplex, duplexPair } from 'node:stream'
import { decodeName } from '../../src/files/name.ts'
import { operations } from '../../src/guest/wire.ts'
import { patternBytes } from './pattern.ts'

export interface ServedRequest {
  readonly tag: number
  readonly operation: number
  readonly body: Buffer
}

/** The honest reply, to be sent by the test as it likes. Undefined: it has to make its own. */
type Serve = (request: ServedRequest, honest: Buffer, toClient: Duplex) => void

export const FILE_BYTES = patternBytes(3 * 1024 * 1024 + 77, 5)
export const MANY = 500
const PAGE = 100

export const sendHonest: Serve = (_request, honest, toClient) => void toClient.write(honest)

/** The client's end of the stream. */
export function guestServer(serve: Serve = sendHonest): Duplex {
  const [client, server] = duplexPair()
  let bytes = Buffer.alloc(0)
  server.on('data', (more: Buffer) => {
    bytes = Buffer.concat([bytes, more])
    while (bytes.length >= 4 && bytes.length >= 4 + bytes.readUInt32LE()) {
      const end = 4 + bytes.readUInt32LE()
      const request = { tag: bytes.readUInt32LE(4), operation: bytes[8]!, body: bytes.subarray(9, end) }
      bytes = bytes.subarray(end)
      if (!server.destroyed) serve(request, frame(request.tag, honestBody(request)), server)
    }
  })
  server.on('error', () => {})
  server.on('end', () => server.destroy())
  return client
}

/** A body, or the errno and the text of a failure. */
export type Answer = Buffer | { readonly errno: number; readonly text: string }

export function frame(tag: number, answer: Answer): Buffer {
  const [errno, body] = Buffer.isBuffer(answer) ? [0, answer] : [answer.errno, Buffer.from(answer.text)]
  return Buffer.concat([u32(6 + body.length), u32(tag), u16(errno), body])
}

export const u16 = (value: number): Buffer => Buffer.of(value & 255, value >>> 8)
export const u32 = (value: number): Buffer => Buffer.of(value, value >>> 8, value >>> 16, value >>> 24)
export function u64(value: bigint | number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)))
  return bytes
}
export const text = (value: string | Uint8Array): Buffer => {
  const bytes = Buffer.from(value as string)
  return Buffer.concat([u32(bytes.length), bytes])
}
const node = (name: string): Buffer => Buffer.concat([Buffer.of(name.length), Buffer.from(name)])

const KINDS: Readonly<Record<string, number>> = { file: 1, folder: 2, many: 2, root: 2, link: 3, damaged: 0 }

/** `xattrs` of which come along; undefined: they have to be asked for. */
function attributes(name: string, xattrs: Readonly<Record<string, string>> | undefined): Buffer {
  const size = name === 'file' ? FILE_BYTES.length : 4
  const times = [1n, 2n, 3n, -(2n ** 63n)].map(u64)
  const inode = u64(BigInt(name.length * 1000 + (name.codePointAt(name.length - 1) ?? 0)))
  const along =
    xattrs === undefined
      ? [Buffer.of(0)]
      : [Buffer.of(1), u16(Object.keys(xattrs).length), ...Object.entries(xattrs).flatMap(pair => pair.map(text))]
  const numbers = [1, 1234, 4321, 0, 0].map(u32)
  return Buffer.concat([
    Buffer.of(KINDS[name] ?? 1),
    u16(0o644),
    ...numbers,
    inode,
    u64(size),
    u64(4096),
    ...times,
    ...along,
  ])
}

const found = (name: string): Buffer => Buffer.concat([node(name), attributes(name, undefined)])

export function entry(name: string | Buffer, id: string, xattrs?: Readonly<Record<string, string>>): Buffer {
  const bytes = Buffer.from(name as string)
  return Buffer.concat([u16(bytes.length), bytes, node(KINDS[id] === 0 ? '' : id), attributes(id, xattrs)])
}

function honestBody({ operation, body }: ServedRequest): Answer {
  const id = body.length > 1 ? body.toString('latin1', 1, 1 + body[0]!) : ''
  const rest = body.subarray(1 + id.length)
  switch (operation) {
    case operations.hello:
      return text('{"version":1,"server":"agent","built":"test"}')
    case operations.volumes:
      return text('[{"name":"vda-p1","disk":"vda","type":"ext4","sizeBytes":5,"state":"readable","label":"L"}]')
    case operations.unlock:
      return Buffer.alloc(0)
    case operations.root:
      return found('root')
    case operations.lookup: {
      const name = decodeName(rest.subarray(2))
      return ['file', 'folder', 'link', 'many'].includes(name) ? found(name) : { errno: 2, text: 'no such name' }
    }
    case operations.list:
      return id === 'many' ? pageOfMany(Number(rest.readBigUInt64LE())) : listOfRoot(id)
    case operations.readLink:
      return text('to')
    case operations.xattrs:
      return Buffer.concat([u32(0), u32(2), text('user.a'), text('value'), text('security.capability'), text('\x01\0')])
    case operations.read: {
      const offset = Number(rest.readBigUInt64LE())
      return FILE_BYTES.subarray(offset, offset + rest.readUInt32LE(8))
    }
    case operations.extents: {
      const length = rest.readBigUInt64LE(8)
      const hole = length > 8192n ? 8192n : 0n
      const extents = [Buffer.concat([u64(length - hole), Buffer.of(0)])]
      if (hole > 0n) extents.push(Buffer.concat([u64(hole), Buffer.of(1)]))
      return Buffer.concat([u32(extents.length), ...extents])
    }
    case operations.statfs:
      return Buffer.concat([u32(4096), u64(100), u64(50), u64(10)])
    default:
      return { errno: 95, text: 'unknown' }
  }
}

function listOfRoot(id: string): Buffer {
  if (id !== 'root') return Buffer.concat([u64(0), u32(0)])
  const entries = [
    entry('file', 'file', { 'security.selinux': 'label' }),
    entry('folder', 'folder', {}),
    entry('link', 'link'),
    entry('many', 'many', {}),
    entry('broken', 'damaged'),
  ]
  return Buffer.concat([u64(0), u32(entries.length), ...entries])
}

function pageOfMany(from: number): Buffer {
  const until = Math.min(MANY, from + PAGE)
  const entries = Array.from({ length: until - from }, (_, index) =>
    entry(`name-${from + index}`, `f${from + index}`, {}),
  )
  return Buffer.concat([u64(until === MANY ? 0 : until), u32(entries.length), ...entries])
}
