/** The overlay of a VM that QEMU left as it was killed: what leaks is repaired, what is damaged is refused and stays as it is. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { checkOverlay } from '../../../src/recovery/check-overlay.ts'
import { lacking } from '../../doubles/peer-tools.ts'

const skip = lacking('qemu-img', 'qemu-io')
const folder = mkdtempSync(path.join(tmpdir(), 'lb-check-'))
after(() => rmSync(folder, { recursive: true, force: true }))

/** With one cluster of data, over a backing file that nobody serves. */
function overlay(name: string): string {
  const file = path.join(folder, name)
  const backing = `nbd+unix:///vda?socket=${path.join(folder, 'nobody')}`
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-u', '-b', backing, '-F', 'raw', file, '16M'])
  const alone = `json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'file', filename: file }, backing: null })}`
  execFileSync('qemu-io', ['-c', 'write -P 7 0 64k', alone], { stdio: 'ignore' })
  return file
}

/** Big-endian fields of the header give where the tables are. */
function change(file: string, where: (bytes: Buffer) => { at: number; bytes: Buffer }): void {
  const { at, bytes } = where(readFileSync(file))
  const handle = openSync(file, 'r+')
  writeSync(handle, bytes, 0, bytes.length, at)
  closeSync(handle)
}

const tableAt = (bytes: Buffer, header: number): number => Number(bytes.readBigUInt64BE(header))
/** Without the flags at both ends. */
const placeOf = (entry: bigint): number => Number(entry & 0x00ff_ffff_ffff_fe00n)
const L1_TABLE = 40
const REFCOUNT_TABLE = 48

test('one that is whole is fine, though nobody serves what is below it', { skip }, async () => {
  const file = overlay('whole')
  const before = readFileSync(file)
  assert.equal(await checkOverlay(file), 'fine')
  assert.ok(readFileSync(file).equals(before))
})

test('clusters that nobody refers to are given back', { skip }, async () => {
  const file = overlay('leaking')
  // The data's entry in its L2 table goes, as where QEMU died before it had written it.
  change(file, bytes => {
    const l2 = placeOf(bytes.readBigUInt64BE(tableAt(bytes, L1_TABLE)))
    return { at: l2, bytes: Buffer.alloc(8) }
  })
  assert.equal(await checkOverlay(file), 'repaired')
  assert.equal(await checkOverlay(file), 'fine')
})

test('one whose tables are wrong is refused by name, with what to do, and not touched', { skip }, async () => {
  const file = overlay('damaged')
  // Data that is in use counts as free: QEMU would give its place to something else.
  change(file, bytes => {
    const block = placeOf(bytes.readBigUInt64BE(tableAt(bytes, REFCOUNT_TABLE)))
    const l2 = placeOf(bytes.readBigUInt64BE(tableAt(bytes, L1_TABLE)))
    const data = placeOf(bytes.readBigUInt64BE(l2))
    return { at: block + (data / 65_536) * 2, bytes: Buffer.alloc(2) }
  })
  const before = readFileSync(file)
  await assert.rejects(checkOverlay(file), { code: 'overlay-damaged' })
  assert.ok(readFileSync(file).equals(before))
  change(file, () => ({ at: 0, bytes: Buffer.alloc(8) }))
  await assert.rejects(checkOverlay(file), { code: 'overlay-damaged' })
  await assert.rejects(checkOverlay(path.join(folder, 'absent')), { code: 'overlay-damaged' })
})
