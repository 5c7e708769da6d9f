/**
 * The images that the goals use, made once in a cache folder: `v1.raw`, an ext4 filesystem with this machine's /usr in it,
 * and `v2.raw`, the same with 3 % of its non-zero 64 KiB blocks rewritten at random places: the worst case for large chunks.
 */
import { mkdir, open, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { GiB, KiB, MiB } from '../src/core/limits.ts'
import { seededRandom } from '../src/core/random.ts'
import { exists, run } from './tools.ts'

export const CACHE = process.env.LIFEBOAT_TEST_CACHE ?? path.join(import.meta.dirname, '..', '.cache')
const BLOCK = 64 * KiB
const SIZE = 1 * GiB
const CONTENT_KIB = 740 * KiB

export interface Images {
  readonly v1: string
  readonly v2: string
  readonly size: number
}

export async function images(): Promise<Images> {
  const dir = path.join(CACHE, 'bench')
  const [v1, v2] = [path.join(dir, 'v1.raw'), path.join(dir, 'v2.raw')]
  await mkdir(dir, { recursive: true })
  if (!(await exists(v1))) await makeFirst(v1)
  if (!(await exists(v2))) await makeSecond(v1, v2)
  return { v1, v2, size: SIZE }
}

/** Offsets of the blocks of 64 KiB in which v2 differs from v1: read from the images, which an earlier version may have made. */
export async function changedBlocks({ v1, v2 }: Images): Promise<number[]> {
  const [before, after] = [await open(v1, 'r'), await open(v2, 'r')]
  const [a, b] = [Buffer.alloc(4 * MiB), Buffer.alloc(4 * MiB)]
  const changed: number[] = []
  try {
    for (let at = 0; at < SIZE; at += a.length) {
      await before.read(a, 0, a.length, at)
      await after.read(b, 0, b.length, at)
      for (let block = 0; block < a.length; block += BLOCK)
        if (a.compare(b, block, block + BLOCK, block, block + BLOCK) !== 0) changed.push(at + block)
    }
  } finally {
    await before.close()
    await after.close()
  }
  return changed
}

async function makeFirst(file: string): Promise<void> {
  const stage = `${file}.stage`
  await rm(stage, { recursive: true, force: true })
  await mkdir(stage, { recursive: true })
  const script = `used=0
    for d in /usr/bin /usr/sbin /usr/share/perl /usr/share/locale /usr/include /usr/lib/x86_64-linux-gnu /usr/lib/gcc /usr/share/* /usr/lib/*; do
      [ -d "$d" ] || continue; [ -e "$1$d" ] && continue
      size=$(du -sk "$d" | cut -f1); [ $((used + size)) -gt ${CONTENT_KIB} ] && continue
      mkdir -p "$1$(dirname "$d")"; cp -a "$d" "$1$(dirname "$d")/"; used=$((used + size))
    done
    truncate -s ${SIZE} "$2.part"; mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 -d "$1" "$2.part"`
  await run('bash', ['-c', script, 'bash', stage, file], { maxBuffer: 16 * MiB })
  await rm(stage, { recursive: true, force: true })
  await rename(`${file}.part`, file)
}

async function nonZeroBlocks(file: string): Promise<number[]> {
  const image = await open(file, 'r')
  const buffer = Buffer.alloc(4 * MiB)
  const used: number[] = []
  try {
    for (let at = 0; at < SIZE; at += buffer.length) {
      await image.read(buffer, 0, buffer.length, at)
      for (let block = 0; block < buffer.length; block += BLOCK)
        if (!buffer.subarray(block, block + BLOCK).equals(ZERO)) used.push(at + block)
    }
  } finally {
    await image.close()
  }
  return used
}

const ZERO = Buffer.alloc(BLOCK)

function pick(used: readonly number[], count: number): number[] {
  const random = seededRandom('v2')
  const chosen = new Set<number>()
  while (chosen.size < Math.min(count, used.length)) {
    const at = Buffer.from(random(6)).readUIntBE(0, 6) % used.length
    chosen.add(used[at] ?? 0)
  }
  return [...chosen].sort((a, b) => a - b)
}

/** New content with realistic compressibility: another block's bytes, every 512 bytes re-keyed so that it never deduplicates. */
async function makeSecond(v1: string, v2: string): Promise<void> {
  const used = await nonZeroBlocks(v1)
  const changed = pick(used, Math.floor((SIZE / BLOCK) * 0.03))
  await run('cp', ['--sparse=always', v1, `${v2}.part`])
  const [source, target] = [await open(v1, 'r'), await open(`${v2}.part`, 'r+')]
  const random = seededRandom('content')
  const block = Buffer.alloc(BLOCK)
  try {
    for (const offset of changed) {
      const other = used[Buffer.from(random(6)).readUIntBE(0, 6) % used.length] ?? 0
      await source.read(block, 0, BLOCK, other)
      for (let at = 0; at < BLOCK; at += 512) block.set(random(16), at)
      await target.write(block, 0, BLOCK, offset)
    }
  } finally {
    await source.close()
    await target.close()
  }
  await rename(`${v2}.part`, v2)
}
