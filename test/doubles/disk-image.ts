/** Disk images on this host that are compared by their digests. */
import { createHash, randomFillSync } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { MiB } from '../../src/core/limits.ts'

/** Bytes that do not shrink, so that they are packs, with a hole after the first quarter. Gives their digest. */
export async function makeImage(file: string, sizeBytes: number): Promise<string> {
  await using handle = await open(file, 'w')
  await handle.truncate(sizeBytes)
  const piece = Buffer.alloc(MiB)
  for (let offset = 0; offset < sizeBytes; offset += MiB)
    if (offset < sizeBytes / 4 || offset >= sizeBytes / 4 + 8 * MiB)
      await handle.write(randomFillSync(piece), 0, Math.min(MiB, sizeBytes - offset), offset)
  return digestOf(file)
}

export async function changeImage(file: string, offset: number, length: number): Promise<string> {
  {
    await using handle = await open(file, 'r+')
    await handle.write(randomFillSync(Buffer.alloc(length)), 0, length, offset)
  }
  return digestOf(file)
}

export async function digestOf(file: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file, { highWaterMark: MiB }), hash)
  return hash.digest('hex')
}
