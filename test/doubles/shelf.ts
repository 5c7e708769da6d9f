/** The smallest repository there is: each point's disks whole, as files in a folder. A point exists when its JSON does. */
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { PointId, RepositoryId } from '../../src/core/ids.ts'
import { hex } from '../../src/core/ids.ts'
import { systemRandom } from '../../src/core/random.ts'
import type { Capture, CapturedDisk, CaptureRequest, Hypervisor } from '../../src/hypervisor/hypervisor.ts'

export const REPOSITORY = '00112233445566778899aabbccddeeff' as RepositoryId

export interface ShelvedPoint {
  readonly id: PointId
  readonly disks: readonly { readonly name: string; readonly size: number }[]
}

export interface ShelfBackup extends Partial<Pick<CaptureRequest, 'kind' | 'disks' | 'signal' | 'bases'>> {
  readonly hypervisor: Hypervisor
  readonly fleecingDir: string
  readonly repository?: RepositoryId
  readonly point?: PointId
  /** While the views are open, before they are read. */
  readonly meanwhile?: (capture: Capture) => Promise<void>
}

export interface Shelf {
  points(): Promise<readonly ShelvedPoint[]>
  disk(point: PointId, name: string): Promise<Buffer>
  /** A whole backup. What it gives is what the capture said. */
  backup(backup: ShelfBackup): Promise<{ point: PointId; disks: readonly CapturedDisk[]; capture: Capture }>
}

export const newPoint = (): PointId => hex(systemRandom(8)) as PointId

export async function openShelf(dir: string): Promise<Shelf> {
  await mkdir(dir, { recursive: true })
  const file = (point: string, disk: string) => path.join(dir, `${point}.${disk}`)
  const points = async () => {
    const names = (await readdir(dir)).filter(name => name.endsWith('.json')).sort()
    const parsed = await Promise.all(names.map(async name => JSON.parse(await readFile(path.join(dir, name), 'utf8'))))
    return (parsed as ShelvedPoint[]).reverse()
  }
  const disk = (point: PointId, name: string) => readFile(file(point, name))
  return {
    points,
    disk,
    async backup({ hypervisor, meanwhile, kind = 'incremental', ...given }) {
      const held = await points()
      const point = given.point ?? newPoint()
      const capture = await hypervisor.capture({
        repository: given.repository ?? REPOSITORY,
        point,
        bases: given.bases ?? held,
        kind,
        fleecingDir: given.fleecingDir,
        disks: given.disks,
        signal: given.signal,
      })
      try {
        await meanwhile?.(capture)
        for (const captured of capture.disks) {
          const { name, size } = captured.description
          const contents = Buffer.alloc(size)
          if (captured.base) (await disk(captured.base, name)).copy(contents)
          await readChanges(captured, contents)
          await writeFile(file(point, name), contents)
        }
        const draft = path.join(dir, 'draft')
        const manifest = { id: point, disks: capture.disks.map(({ description }) => description) }
        await writeFile(draft, JSON.stringify(manifest))
        await rename(draft, path.join(dir, `${String(held.length).padStart(6, '0')}.json`))
        await capture.committed()
      } finally {
        await capture[Symbol.asyncDispose]()
      }
      return { point, disks: capture.disks, capture }
    },
  }
}

async function readChanges({ changes, image }: CapturedDisk, contents: Buffer): Promise<void> {
  const ranges = changes.kind === 'full' ? [{ offset: 0, length: contents.length }] : changes.ranges
  for (const range of ranges)
    for await (const { offset, length, kind } of image.extents(range))
      if (kind === 'zero') contents.fill(0, offset, offset + length)
      else await image.readInto(contents.subarray(offset, offset + length), offset)
}
