/** What a program or library for 64-bit Linux needs: read from its headers, so that nothing of it has to run. */

const PT_LOAD = 1
const PT_DYNAMIC = 2
const PT_INTERP = 3
const DT_NULL = 0
const DT_NEEDED = 1
const DT_STRTAB = 5

export interface ElfNeeds {
  /** The path of its loader; absent of libraries and of static programs. */
  readonly loader?: string
  /** Names of libraries. */
  readonly libraries: readonly string[]
}

interface Segment {
  readonly type: number
  readonly offset: number
  readonly address: number
  readonly length: number
}

/** Undefined where it is no 64-bit little-endian ELF file. */
export function elfNeeds(bytes: Buffer): ElfNeeds | undefined {
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2 || bytes[5] !== 1) return undefined
  const segments = segmentsOf(bytes)
  const interp = segments.find(({ type }) => type === PT_INTERP)
  const loader = interp && textAt(bytes, interp.offset)
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC)
  const libraries = dynamic ? librariesOf(bytes, segments, dynamic) : []
  return { ...(loader && { loader }), libraries }
}

function segmentsOf(bytes: Buffer): readonly Segment[] {
  const start = Number(bytes.readBigUInt64LE(32))
  const size = bytes.readUInt16LE(54)
  return Array.from({ length: bytes.readUInt16LE(56) }, (_, index) => {
    const at = start + index * size
    return {
      type: bytes.readUInt32LE(at),
      offset: Number(bytes.readBigUInt64LE(at + 8)),
      address: Number(bytes.readBigUInt64LE(at + 16)),
      length: Number(bytes.readBigUInt64LE(at + 32)),
    }
  })
}

function librariesOf(bytes: Buffer, segments: readonly Segment[], dynamic: Segment): readonly string[] {
  const names: number[] = []
  let strings = 0
  for (let at = dynamic.offset; at + 16 <= dynamic.offset + dynamic.length; at += 16) {
    const tag = Number(bytes.readBigInt64LE(at))
    const value = Number(bytes.readBigUInt64LE(at + 8))
    if (tag === DT_NULL) break
    if (tag === DT_NEEDED) names.push(value)
    if (tag === DT_STRTAB) strings = value
  }
  const holder = segments.find(s => s.type === PT_LOAD && strings >= s.address && strings < s.address + s.length)
  if (!holder) return []
  return names.map(name => textAt(bytes, strings - holder.address + holder.offset + name))
}

const textAt = (bytes: Buffer, offset: number): string => bytes.toString('latin1', offset, bytes.indexOf(0, offset))
