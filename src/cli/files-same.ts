/** Whether disks of two points hold the same bytes, told by the top lists of their trees: without a request. */
import { createHash } from 'node:crypto'
import type { Manifest, ManifestDisk } from '../repository/repository.ts'

export interface SameDisks {
  /** All disks of both. */
  readonly all: boolean
  disk(name: string): boolean
}

export function sameDisks(before: Manifest, after: Manifest): SameDisks {
  const marks = (manifest: Manifest) => new Map(manifest.disks.map(disk => [disk.name, diskMark(manifest, disk)]))
  const [left, right] = [marks(before), marks(after)]
  const disk = (name: string) => left.has(name) && left.get(name) === right.get(name)
  const names = [...new Set([...left.keys(), ...right.keys()])]
  return { all: names.every(disk), disk }
}

/** Equal marks are equal contents: a disk that did not change keeps its top list. Ids under other keys say nothing of each other. */
export const diskMark = ({ domain }: Manifest, { top, size, chunkSize }: ManifestDisk): string =>
  createHash('sha256').update(`${domain} ${chunkSize} ${size} `).update(top).digest('hex')
