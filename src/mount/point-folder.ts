/** One point: `manifest.json`, `disks/` and `files/`. Looking into it reads the manifest, reading a disk opens the point. */
import type { AbortOptions } from '../core/scope.ts'
import type { Attributes, DirectoryNode, Entry, FileNode, TreeNode } from '../files/file-tree.ts'
import { virtualDirectory, virtualFile } from '../files/virtual-node.ts'
import type { PointSummary } from '../repository/repository.ts'
import { type DescribedPoints, manifestText } from './described-points.ts'
import { distinctNames, safeName } from './names.ts'
import { FILE, FOLDER, lateText, type Owner, ours, type Place } from './nodes.ts'
import { type UsePoint, usedReader } from './open-points.ts'

export interface PointFolderContext {
  readonly described: DescribedPoints
  readonly usePoint: UsePoint
  readonly owner: Owner
  /** `files/` of a point; absent where nobody can open guests. */
  readonly guestFolder?: (point: PointSummary, place: Place, inode: bigint) => DirectoryNode
}

/** Of each point; its disks follow. Other nodes of the same tree have numbers that come from their contents. */
const INODES = { point: 1n, disks: 2n, files: 3n, firstDisk: 16n } as const

const ENDING = '.raw'

/** Small, since the kernel remembers ten thousand of them: what is in it is made when somebody looks. */
export class PointFolder implements DirectoryNode {
  readonly kind = 'directory'
  // A hold makes another manifest.json.
  readonly isFrozen = false
  readonly #point: PointSummary
  readonly #context: PointFolderContext

  constructor(point: PointSummary, context: PointFolderContext) {
    this.#point = point
    this.#context = context
  }

  get tree(): string {
    return this.#point.id
  }

  attributes(): Attributes {
    return this.#folder().attributes()
  }

  xattrs(options?: AbortOptions): Promise<ReadonlyMap<string, Uint8Array>> {
    return this.#folder().xattrs(options)
  }

  lookup(name: string, options?: AbortOptions): Promise<TreeNode | undefined> {
    return this.#folder().lookup(name, options)
  }

  list(options?: AbortOptions): AsyncIterable<readonly Entry[]> {
    return this.#folder().list(options)
  }

  #folder(): DirectoryNode {
    return pointFolder(this.#point, this.#context)
  }
}

function pointFolder(point: PointSummary, context: PointFolderContext): DirectoryNode {
  const place: Place = { tree: point.id, modified: point.takenAt, owner: context.owner }
  const disks = () =>
    virtualDirectory({
      ...ours(place, INODES.disks, FOLDER),
      entries: options => diskFiles(point, context, options),
    })
  const files = () => context.guestFolder?.(point, place, INODES.files)
  return virtualDirectory({
    ...ours(place, INODES.point, FOLDER),
    async entries(options) {
      const manifest = await manifestFile(point, context, options)
      const entries: readonly Entry[] = [
        { name: 'disks', node: disks() },
        { name: 'manifest.json', node: manifest },
      ]
      const guest = files()
      return guest ? [...entries, { name: 'files', node: guest }] : entries
    },
    async lookup(name, options) {
      if (name === 'disks') return disks()
      if (name === 'files') return files()
      return name === 'manifest.json' ? await manifestFile(point, context, options) : undefined
    },
  })
}

/** Its text is made again when it is opened: from the manifest, which never changes, and the holds that are known now. */
async function manifestFile(
  point: PointSummary,
  { described, owner }: PointFolderContext,
  options: AbortOptions,
): Promise<FileNode> {
  const [found, holds] = await Promise.all([described.of(point, options), described.holdsOf(point, options)])
  const place = { tree: point.id, modified: found.takenAt, owner }
  return lateText(place, manifestText(found, holds), async late => manifestText(await described.of(point, late), holds))
}

async function diskFiles(
  point: PointSummary,
  { described, usePoint, owner }: PointFolderContext,
  options: AbortOptions,
): Promise<readonly Entry[]> {
  const { disks, takenAt } = await described.of(point, options)
  const distinct = distinctNames()
  const place = { tree: point.id, modified: takenAt, owner }
  return disks.map(({ name, size, allocated }, n): Entry => {
    const node = virtualFile({
      ...ours(place, INODES.firstDisk + BigInt(n), FILE),
      size,
      allocated,
      async open(late = {}) {
        const use = await usePoint(point, late)
        return usedReader(use.value.image(name), use)
      },
    })
    return { name: distinct(safeName(name, { reserve: ENDING.length }) + ENDING), node }
  })
}
