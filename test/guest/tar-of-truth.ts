/** The tree of the tests as a tar archive (pax, sparse files by GNU's 1.0 way), which GNU tar puts on any filesystem. */
import { encodeName } from '../../src/files/name.ts'
import { isSparse, type TrueFile } from './reference-tree.ts'

const BLOCK = 512
const TYPE = { file: '0', symlink: '2', 'character-device': '3', 'block-device': '4', directory: '5', fifo: '6' }

/** Without a file of the name, GNU tar finds what is a whole archive: two blocks of zeros end it. */
export const tarOf = (truth: readonly TrueFile[]): Buffer =>
  Buffer.concat([...truth.flatMap(member), Buffer.alloc(2 * BLOCK)])

function member(truth: TrueFile): Buffer[] {
  const holes = truth.kind === 'file' && isSparse(truth)
  const body = holes ? sparseBody(truth) : Buffer.concat(truth.pieces.map(({ bytes }) => bytes))
  const attributes = Object.entries(truth.xattrs).filter(([name]) => !name.startsWith('system.'))
  const records: [string, string | Buffer][] = [
    ['mtime', seconds(truth.modifiedNs!)],
    ...(holes ? sparseRecords(truth) : [['path', encodeName(truth.path)] as [string, Buffer]]),
    ...(truth.target === undefined ? [] : [['linkpath', encodeName(truth.target)] as [string, Buffer]]),
    ...(truth.hardLinkOf === undefined ? [] : [['linkpath', encodeName(truth.hardLinkOf)] as [string, Buffer]]),
    ...(truth.acl === undefined ? [] : [['SCHILY.acl.access', truth.acl] as [string, string]]),
    ...attributes.map(([name, value]): [string, Buffer] => [`SCHILY.xattr.${name}`, value]),
  ]
  const pax = Buffer.concat(records.map(([key, value]) => record(key, Buffer.from(value))))
  const type = truth.hardLinkOf === undefined ? TYPE[truth.kind as keyof typeof TYPE] : '1'
  return [header('x', {}, pax.length), padded(pax), header(type, truth, body.length), padded(body)]
}

const sparseRecords = (truth: TrueFile): [string, string | Buffer][] => [
  ['GNU.sparse.major', '1'],
  ['GNU.sparse.minor', '0'],
  ['GNU.sparse.name', encodeName(truth.path)],
  ['GNU.sparse.realsize', `${truth.size}`],
]

/** The map, one number a line, then the pieces; a last piece of nothing tells where the file ends. */
function sparseBody({ pieces, size }: TrueFile): Buffer {
  const map = [...pieces.map(({ offset, bytes }) => [offset, bytes.length]), [size, 0]]
  return Buffer.concat([
    padded(Buffer.from([map.length, ...map.flat()].map(number => `${number}\n`).join(''))),
    ...pieces.map(({ bytes }) => bytes),
  ])
}

/** Its length counts its own digits. */
function record(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')])
  let length = rest.length + 1
  while (`${length}`.length + rest.length !== length) length++
  return Buffer.concat([Buffer.from(`${length}`), rest])
}

function header(type: string, truth: Partial<TrueFile>, size: number): Buffer {
  const block = Buffer.alloc(BLOCK)
  const octal = (value: number, at: number, digits: number): number =>
    block.write(`${value.toString(8).padStart(digits, '0')}\0`, at)
  block.write('pax', 0)
  octal(truth.permissions ?? 0o644, 100, 7)
  octal(truth.uid ?? 0, 108, 7)
  octal(truth.gid ?? 0, 116, 7)
  octal(size, 124, 11)
  octal(0, 136, 11)
  block.write(type, 156)
  block.write('ustar\x0000', 257)
  octal(truth.device?.major ?? 0, 329, 7)
  octal(truth.device?.minor ?? 0, 337, 7)
  block.fill(' ', 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return block
}

const padded = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK)])

/** Decimal, and below zero as GNU tar reads it: the whole text is the number. */
function seconds(ns: bigint): string {
  const digits = `${ns < 0n ? -ns : ns}`.padStart(10, '0')
  return `${ns < 0n ? '-' : ''}${digits.slice(0, -9)}.${digits.slice(-9)}`
}
