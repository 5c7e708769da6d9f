/** Partition tables of PCs as bytes: those that tools write, and those that no tool would. */
import { closeSync, openSync, writeSync } from 'node:fs'

export const SECTOR = 512

export interface MbrEntry {
  readonly type: number
  /** Sectors; in an extended partition's tables as that table counts them. */
  readonly start: number
  readonly length: number
}

export const EXTENDED = 0x0f

export function mbr(entries: readonly (MbrEntry | undefined)[]): Buffer {
  const sector = Buffer.alloc(SECTOR)
  sector.writeUInt32LE(0x4c494645, 440)
  for (const [index, entry] of entries.entries()) {
    if (entry === undefined) continue
    const at = 446 + index * 16
    sector.writeUInt8(entry.type, at + 4)
    sector.writeUInt32LE(entry.start, at + 8)
    sector.writeUInt32LE(entry.length, at + 12)
  }
  sector.writeUInt16LE(0xaa55, 510)
  return sector
}

/** Where the chain of an extended partition starts, and its logical partitions, each behind a table of its own. */
export function writeExtended(path: string, start: number, logical: readonly MbrEntry[]): void {
  for (const [index, entry] of logical.entries()) {
    const table = entry.start - 1
    const next = logical[index + 1]
    const link = next && { type: 0x05, start: next.start - 1 - start, length: next.length + 1 }
    writeAt(path, mbr([{ ...entry, start: 1 }, link]), (index === 0 ? start : table) * SECTOR)
  }
}

export function writeAt(path: string, bytes: Uint8Array, offset: number): void {
  const file = openSync(path, 'r+')
  try {
    writeSync(file, bytes, 0, bytes.length, offset)
  } finally {
    closeSync(file)
  }
}
