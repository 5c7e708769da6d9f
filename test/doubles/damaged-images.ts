/** Images with random damage, read to the end by the reader: whatever comes, it is told, bounded, and others are not hurt. */
import { readFileSync } from 'node:fs'
import type { BlockReader } from '../../src/block/block-device.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { limits } from '../../src/core/limits.ts'
import type { DirectoryNode, FileNode, TreeNode } from '../../src/files/file-tree.ts'
import { type OpenedReader, openedReader } from './opened-reader.ts'

export interface DamageReport {
  readonly images: number
  /** Calls that failed with an error that says what is damaged. */
  failed: number
  /** Images that could not be opened any more, which the volume said. */
  unreadable: number
  /** Processes that died of what they read, by how. */
  readonly deaths: string[]
  /** Trees that ended only at this test's own bound. */
  endless: number
  files: number
  /** The most memory that a process had, in KiB. */
  memoryKiB: number
}

const NODES_MAX = 3000
const DEPTH_MAX = 40
const READ_MAX = 2 * 1024 * 1024
const WIDTH = 2

/** `count` images, each `base` with other damage. Throws what is no LifeboatError, or a call that does not end. */
export async function readDamaged(base: Buffer, count: number, seed: number): Promise<DamageReport> {
  const report: DamageReport = {
    images: count,
    failed: 0,
    unreadable: 0,
    deaths: [],
    endless: 0,
    files: 0,
    memoryKiB: 0,
  }
  let next = 0
  const work = async () => {
    while (next < count) {
      const number = next++
      const image = damaged(base, seed + number)
      await readAll(memoryDevice(image), report, `seed ${seed + number}`)
    }
  }
  await Promise.all(Array.from({ length: WIDTH }, work))
  return report
}

/** Deterministic: the same image for the same seed. */
function damaged(base: Buffer, seed: number): Buffer {
  let state = Math.imul(seed, 0x9e3779b1) >>> 0
  const draw = (bound: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * bound)
  }
  const image = Buffer.from(base)
  // Most of an image is empty, and damage there is none.
  const used = usedSectors(base)
  for (let strikes = 1 + draw(12); strikes > 0; strikes--) {
    const at = used[draw(used.length)]! * 512 + draw(512 - 8)
    const kind = draw(6)
    if (kind === 0) image[at]! ^= 1 << draw(8)
    else if (kind === 1) image.writeUInt32LE(draw(2 ** 32), at)
    else if (kind === 2) image.fill(0xff, at, at + 4)
    else if (kind === 3) image.fill(0, at, at + 1 + draw(8))
    else if (kind === 4) image.writeUInt16LE(draw(64), at)
    else base.copy(image, at - (at % 512), used[draw(used.length)]! * 512, undefined)
    if (kind === 5) base.copy(image, at - (at % 512) + 512, at - (at % 512) + 512)
  }
  return image
}

function usedSectors(base: Buffer): readonly number[] {
  const zeros = Buffer.alloc(512)
  return Array.from({ length: base.length / 512 }, (_, sector) => sector).filter(
    sector => !base.subarray(sector * 512, sector * 512 + 512).equals(zeros),
  )
}

async function readAll(image: BlockReader, report: DamageReport, name: string): Promise<void> {
  await using opened = await openedReader(image)
  try {
    const volumes = await opened.guests.volumes()
    if (!volumes.some(({ state }) => state === 'readable')) report.unreadable++
    for (const volume of volumes) {
      if (volume.state !== 'readable') continue
      const { root } = await opened.guests.open(volume.name)
      if (!(await walk(root, report))) report.endless++
    }
  } catch (error) {
    note(error, report, name)
  }
  watchMemory(opened, report)
}

function note(error: unknown, report: DamageReport, name: string): void {
  if (isLifeboatError(error, 'guest-lost')) report.deaths.push(`${name}: ${error.message}`)
  else if (isLifeboatError(error, 'guest-filesystem')) report.failed++
  else throw new Error(`${name} ended with an error of ours`, { cause: error })
}

/** False: there was more. */
async function walk(root: DirectoryNode, report: DamageReport): Promise<boolean> {
  let left = NODES_MAX
  const visit = async (node: TreeNode, depth: number): Promise<void> => {
    if (--left < 0) return
    report.files++
    await told(report, () => node.xattrs())
    if (node.kind === 'symlink') await told(report, () => node.readLink())
    if (node.kind === 'file') await told(report, () => read(node))
    if (node.kind !== 'directory' || depth >= DEPTH_MAX) return
    const children: TreeNode[] = []
    await told(report, async () => {
      for await (const batch of node.list()) children.push(...batch.map(entry => entry.node))
    })
    for (const child of children) await visit(child, depth + 1)
  }
  await visit(root, 0)
  return left >= 0
}

async function told(report: DamageReport, work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
  } catch (error) {
    if (!isLifeboatError(error, 'guest-filesystem')) throw error
    report.failed++
  }
}

async function read(node: FileNode): Promise<void> {
  await using contents = await node.open()
  const target = Buffer.alloc(Math.min(contents.size, READ_MAX))
  await contents.readInto(target, 0)
  if (contents.size > READ_MAX) await contents.readInto(target, contents.size - READ_MAX)
}

function watchMemory({ pids }: OpenedReader, report: DamageReport): void {
  for (const pid of pids) {
    let status = ''
    try {
      status = readFileSync(`/proc/${pid}/status`, 'utf8')
    } catch {
      continue
    }
    report.memoryKiB = Math.max(report.memoryKiB, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0))
  }
  if (report.memoryKiB * 1024 > limits.guestReaderMemoryBytes) throw new Error(`${report.memoryKiB} KiB of memory`)
}
