/** `files ls`: the volumes of a point, or what lies in its directories. */
import { limits } from '../core/limits.ts'
import { ahead } from '../files/ahead.ts'
import type { TreeNode } from '../files/file-tree.ts'
import { walk } from '../files/walk.ts'
import type { Volume } from '../guest/guest-filesystems.ts'
import type { PointReference } from '../repository/point-ref.ts'
import { below, type FileEntry, fileEntry, longLine } from './files-entry.ts'
import { FileProblems } from './files-problems.ts'
import { targetsOf } from './files-targets.ts'
import { shownName } from './files-text.ts'
import type { Invocation } from './invocation.ts'
import type { OpenedFiles } from './open-files.ts'
import type { Output } from './output.ts'
import { formatBytes } from './units.ts'

export interface ListFlags {
  readonly recursive?: boolean
}

/** A directory that was named shows what is in it, sorted; with --recursive, all below it, as the walk comes by. */
export async function listFiles(
  { output, signal }: Invocation,
  opened: OpenedFiles,
  places: readonly PointReference[],
  { recursive = false }: ListFlags,
): Promise<number> {
  const { id: point, vm } = opened.point
  const [only] = places
  if (places.length === 1 && only?.path === undefined && only?.disk === undefined)
    return showVolumes(output, { point, vm }, await opened.guest.volumes({ signal }))
  const problems = new FileProblems()
  const entries: FileEntry[] = []
  const tell = (entry: FileEntry, shown: string) => {
    if (output.options.json) entries.push(entry)
    else output.line(longLine(entry, shown))
  }
  for await (const { node, path, isMatched } of targetsOf(opened, places, problems, { signal })) {
    const isItself = node.kind !== 'directory' || (isMatched && !recursive)
    if (isItself) {
      tell(await fileEntry(path, node, problems, { signal }), isMatched ? path : nameOf(path))
      continue
    }
    if (places.length > 1 && !recursive && !output.options.json) output.line(`${shownName(path)}:`)
    const inside = recursive ? allBelow(path, node, problems, signal) : await sorted(path, node, problems, signal)
    const work = (found: Below, stop: AbortSignal) => fileEntry(found.path, found.node, problems, { signal: stop })
    for await (const entry of ahead(inside, limits.directoriesAhead, work, { signal }))
      tell(entry, recursive ? entry.path : entry.name)
  }
  output.result({ point, vm, entries, ...problems.document }, () => {})
  return problems.tell(output)
}

interface Below {
  readonly path: string
  readonly node: TreeNode
}

async function* allBelow(
  start: string,
  node: TreeNode,
  problems: FileProblems,
  signal: AbortSignal,
  enters?: () => boolean,
): AsyncGenerator<Below> {
  for await (const event of walk({ path: [], node }, { signal, enters })) {
    const path = event.path.reduce(below, start)
    if (event.kind === 'problem') problems.add(path, event.reason, event.error)
    if (event.kind === 'entry' && event.path.length > 0) yield { path, node: event.node }
  }
}

async function sorted(start: string, node: TreeNode, problems: FileProblems, signal: AbortSignal) {
  const found: Below[] = []
  for await (const one of allBelow(start, node, problems, signal, () => false)) found.push(one)
  return found.sort((a, b) => (a.path < b.path ? -1 : 1))
}

const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1) || '/'

function showVolumes(output: Output, document: object, volumes: readonly Volume[]): number {
  output.result({ ...document, volumes }, () => {
    if (volumes.length === 0) return output.line('the disks of this point hold nothing that is known')
    output.table(
      [
        { title: 'VOLUME' },
        { title: 'TYPE' },
        { title: 'SIZE', align: 'right' },
        { title: 'LABEL' },
        { title: 'STATE' },
        { title: 'WHY' },
      ],
      volumes.map(({ name, type, sizeBytes, label, state, reason }) => [
        name,
        type ?? '',
        formatBytes(sizeBytes),
        label ?? '',
        state,
        reason ?? (state === 'locked' ? `its key opens it: --guest-key ${name}=FILE` : ''),
      ]),
    )
    return undefined
  })
  return 0
}
