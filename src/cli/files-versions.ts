/** `files versions`: the distinct versions of one file over all points of a VM, the newest first. */
import { createHash } from 'node:crypto'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { ahead } from '../files/ahead.ts'
import type { FileNode, TreeNode } from '../files/file-tree.ts'
import type { Manifest, PointSummary } from '../repository/repository.ts'
import { type FileEntry, fileEntry } from './files-entry.ts'
import { piecesInOrder } from './files-output.ts'
import { parseVmPlace, type VmPlace } from './files-place.ts'
import { FileProblems } from './files-problems.ts'
import { diskMark } from './files-same.ts'
import type { OpenChosenGuest } from './guests.ts'
import type { Invocation } from './invocation.ts'
import type { LiveRepository } from './live-reads.ts'
import { openFiles } from './open-files.ts'

export interface VersionFlags {
  readonly content?: boolean
}

/** A file as a point has it. */
interface Seen {
  readonly key: string
  readonly entry: FileEntry
  readonly digest?: string
}

interface Version extends Seen {
  /** Newest first. */
  readonly points: PointSummary[]
}

export async function fileVersions(
  invocation: Invocation,
  repository: LiveRepository,
  guests: OpenChosenGuest,
  text: string,
  { content = false }: VersionFlags,
): Promise<number> {
  const { output, signal } = invocation
  const all = await repository.repository.points({ signal })
  const place = parseVmPlace(text, [...new Set(all.map(({ vm }) => vm))])
  const points = all.filter(({ vm }) => vm === place.vm).reverse()
  if (points.length === 0)
    throw new LifeboatError('no-such-vm', `There is no point of a VM '${place.vm}'`, {
      hint: '`lifeboat points` lists them.',
    })
  const problems = new FileProblems()
  const look = new Look(invocation, repository, guests, place, content)
  const versions = new Map<string, Version>()
  const absent: PointSummary[] = []
  const bar = output.progress(String)
  let done = 0
  // Manifests are fetched ahead; the guests are opened one after another, since each may be a whole system.
  const manifests = ahead(points, limits.manifestsAhead, (point, stop) => manifestOf(repository, point, stop), {
    signal,
  })
  for await (const { point, manifest, error } of manifests) {
    bar.update(done++, points.length, 'points')
    try {
      if (!manifest) throw error
      const seen = await look.at(point, manifest)
      if (!seen) absent.push(point)
      else {
        const known = versions.get(seen.key)
        if (known) known.points.push(point)
        else versions.set(seen.key, { ...seen, points: [point] })
      }
    } catch (error) {
      // One point that cannot be read says nothing of the others.
      if (signal.aborted || !(error instanceof LifeboatError)) throw error
      problems.add(`${point.vm}@${point.id}`, messageOf(error), error)
    }
  }
  bar.stop()
  const found = [...versions.values()]
  if (found.length === 0 && problems.count === 0)
    throw new LifeboatError('no-such-file', `no point of ${place.vm} has ${place.path}`, {
      details: { object: place.path },
      hint: `\`lifeboat files find ${place.vm}@latest:/ --name NAME\` looks for it elsewhere.`,
    })
  const document = {
    vm: place.vm,
    path: place.path,
    versions: found.map(({ entry, digest, points: held }) => ({ ...entry, digest, points: held.map(pointOf) })),
    absent: absent.map(pointOf),
    pointsOpened: look.opened,
  }
  output.result({ ...document, ...problems.document }, () =>
    output.table(
      [
        { title: 'MODIFIED' },
        { title: 'SIZE', align: 'right' },
        { title: 'INODE', align: 'right' },
        { title: 'POINTS', align: 'right' },
        { title: 'NEWEST POINT' },
        { title: 'OLDEST POINT' },
      ],
      found.map(({ entry, points: held }) => [
        entry.modifiedAt.replace(/\.\d+Z$/, 'Z'),
        String(entry.size),
        entry.inode,
        String(held.length),
        named(held[0]),
        named(held.at(-1)),
      ]),
    ),
  )
  if (absent.length > 0) output.message(`${absent.length} of ${points.length} points have no such file`)
  return problems.tell(output)
}

const pointOf = ({ id, takenAt }: PointSummary) => ({ id, takenAt })

const named = (point: PointSummary | undefined): string =>
  point ? `${point.vm}@${point.id} ${point.takenAt.toISOString().replace(/\.\d+Z$/, 'Z')}` : ''

async function manifestOf({ repository }: LiveRepository, point: PointSummary, signal: AbortSignal) {
  try {
    return { point, manifest: await repository.manifest(point, { signal }) }
  } catch (error) {
    signal.throwIfAborted()
    return { point, error }
  }
}

/** Looks into point after point; one whose disks are those of a point that was looked into is not opened. */
class Look {
  opened = 0
  readonly #invocation: Invocation
  readonly #repository: LiveRepository
  readonly #guests: OpenChosenGuest
  readonly #place: VmPlace
  readonly #content: boolean
  /** The disk that the file's volume lies on alone, once that is known: the others may change. */
  #disk: string | undefined
  readonly #known = new Map<string, Seen | undefined>()

  constructor(
    invocation: Invocation,
    repository: LiveRepository,
    guests: OpenChosenGuest,
    place: VmPlace,
    content: boolean,
  ) {
    this.#invocation = invocation
    this.#repository = repository
    this.#guests = guests
    this.#place = place
    this.#content = content
  }

  async at(point: PointSummary, manifest: Manifest): Promise<Seen | undefined> {
    const marks = this.#marks(manifest)
    const mark = marks.find(one => this.#known.has(one))
    if (mark !== undefined) return this.#known.get(mark)
    const seen = await this.#open(point)
    for (const one of this.#marks(manifest)) this.#known.set(one, seen)
    return seen
  }

  /** Of all disks, and of the one alone. */
  #marks(manifest: Manifest): readonly string[] {
    const all = manifest.disks.map(disk => `${disk.name} ${diskMark(manifest, disk)}`)
    const own =
      this.#place.words === undefined || this.#disk === undefined
        ? []
        : all.filter(mark => mark.startsWith(`${this.#disk} `))
    return [JSON.stringify(all.sort()), ...own]
  }

  async #open(point: PointSummary): Promise<Seen | undefined> {
    this.opened += 1
    const { signal } = this.#invocation
    const { words, path } = this.#place
    await using opened = await openFiles(this.#invocation, this.#repository, point, this.#guests)
    try {
      const { node, path: found, volume } = await opened.find(words, path)
      this.#disk = volume.disk
      return await seenOf(found, node, this.#content, { signal })
    } catch (error) {
      if (error instanceof LifeboatError && error.code === 'no-such-file') return undefined
      throw error
    }
  }
}

async function seenOf(path: string, node: TreeNode, content: boolean, options: AbortOptions): Promise<Seen> {
  const entry = await fileEntry(path, node, new FileProblems(), options)
  if (content && node.kind === 'file') {
    const digest = await digestOf(node, options)
    return { key: digest, entry, digest }
  }
  const { kind, size, modifiedAt, inode, target } = entry
  return { key: JSON.stringify([kind, size, modifiedAt, inode, target]), entry }
}

async function digestOf(node: FileNode, options: AbortOptions): Promise<string> {
  await using reader = await node.open(options)
  const hash = createHash('sha256')
  for await (const piece of piecesInOrder(reader, options)) hash.update(piece)
  return hash.digest('hex')
}
