/** A qcow2 disk with an ext4 file system and files in it: text that compresses, random bytes that do not, and a sparse file. */
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cached, sourceOf } from './recipe-cache.ts'
import { tool } from './tool.ts'

const MiB = 1024 * 1024

/** Resolves to an image that must not be written to: give a copy to the guest. */
export async function dataDisk({ sizeMiB = 256 }: { sizeMiB?: number } = {}): Promise<string> {
  const folder = await cached('data-disk', [`${sizeMiB}`, sourceOf(import.meta.url)], into => build(into, sizeMiB))
  return join(folder, 'data.qcow2')
}

async function build(folder: string, sizeMiB: number): Promise<void> {
  const files = join(folder, 'files')
  mkdirSync(join(files, 'letters'), { recursive: true })
  for (let n = 0; n < 200; n++) writeFileSync(join(files, 'letters', `${n}.txt`), letter(n))
  for (let n = 0; n < 4; n++) writeFileSync(join(files, `noise-${n}.bin`), noise(n, 2 * MiB))
  writeFileSync(
    join(files, 'ledger.csv'),
    Array.from({ length: 100_000 }, (_, row) => `${row},${row * 7919},booked\n`).join(''),
  )
  writeFileSync(join(files, 'sparse.img'), noise(99, 64 * 1024))
  truncateSync(join(files, 'sparse.img'), 32 * MiB)
  const raw = join(folder, 'data.raw')
  writeFileSync(raw, '')
  truncateSync(raw, sizeMiB * MiB)
  await tool('mkfs.ext4', '-q', '-F', '-L', 'lifeboat-data', '-J', 'size=4', '-d', files, raw)
  const image = join(folder, 'data.qcow2')
  await tool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, image)
  chmodSync(image, 0o444)
  rmSync(files, { recursive: true })
  rmSync(raw)
}

const letter = (n: number): string => `Dear reader number ${n},\n\n${'this line is one of many.\n'.repeat(20 + n)}`

/** Repeatable bytes that do not compress. */
function noise(seed: number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at += 32) createHash('sha256').update(`${seed}/${at}`).digest().copy(bytes, at)
  return bytes
}
