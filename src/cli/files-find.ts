/** `files find`: what lies below the places, by name, kind, time and size. */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { ahead } from '../files/ahead.ts'
import type { FileKind, TreeNode } from '../files/file-tree.ts'
import { glob } from '../files/glob.ts'
import { walk } from '../files/walk.ts'
import type { PointReference } from '../repository/point-ref.ts'
import { below, type FileEntry, fileEntry } from './files-entry.ts'
import { FileProblems } from './files-problems.ts'
import { targetsOf } from './files-targets.ts'
import { shownName } from './files-text.ts'
import type { Invocation } from './invocation.ts'
import type { OpenedFiles } from './open-files.ts'
import { parseSince } from './since.ts'
import { parseBytes } from './units.ts'

export interface FindFlags {
  readonly name?: string
  readonly iname?: string
  readonly type?: string
  readonly newer?: string
  readonly older?: string
  readonly larger?: string
  readonly smaller?: string
}

/** A path a line as they are found; the places themselves count, as find has it. */
export async function findFiles(
  { output, signal, surroundings }: Invocation,
  opened: OpenedFiles,
  places: readonly PointReference[],
  flags: FindFlags,
): Promise<number> {
  const { id: point, vm } = opened.point
  const isWanted = conditionOf(flags, surroundings.clock.now())
  const problems = new FileProblems()
  const entries: FileEntry[] = []
  for await (const target of targetsOf(opened, places, problems, { signal })) {
    const found = wantedBelow(target, isWanted, problems, signal)
    if (!output.options.json) for await (const { path } of found) output.line(shownName(path))
    else {
      const work = ({ path, node }: Found, stop: AbortSignal) => fileEntry(path, node, problems, { signal: stop })
      for await (const entry of ahead(found, limits.directoriesAhead, work, { signal })) entries.push(entry)
    }
  }
  output.result({ point, vm, entries, ...problems.document }, () => {})
  return problems.tell(output)
}

interface Found {
  readonly path: string
  readonly node: TreeNode
}

type Condition = (name: string, node: TreeNode) => boolean

async function* wantedBelow(
  start: Found,
  isWanted: Condition,
  problems: FileProblems,
  signal: AbortSignal,
): AsyncGenerator<Found> {
  for await (const event of walk({ path: [], node: start.node }, { signal })) {
    const path = event.path.reduce(below, start.path)
    if (event.kind === 'problem') problems.add(path, event.reason, event.error)
    const name = path.slice(path.lastIndexOf('/') + 1)
    if (event.kind === 'entry' && isWanted(name, event.node)) yield { path, node: event.node }
  }
}

const TYPES: Readonly<Record<string, FileKind>> = {
  f: 'file',
  d: 'directory',
  l: 'symlink',
  p: 'fifo',
  s: 'socket',
  c: 'character-device',
  b: 'block-device',
}

/** All that is said has to be true. Sizes are those of files; a directory has none that a person would mean. */
function conditionOf(flags: FindFlags, now: Date): Condition {
  const conditions: Condition[] = []
  for (const [pattern, ignoreCase] of [
    [flags.name, false],
    [flags.iname, true],
  ] as const) {
    if (pattern === undefined) continue
    const wanted = glob(pattern, { ignoreCase })
    conditions.push(name => wanted.matches([name]))
  }
  if (flags.type !== undefined) {
    const kind = TYPES[flags.type]
    if (kind === undefined)
      throw new LifeboatError('usage', `--type ${flags.type} is not known`, {
        hint: 'f (file), d (directory), l (link), p (fifo), s (socket), c and b (devices) are',
      })
    conditions.push((_name, node) => node.kind === kind)
  }
  const modified = (node: TreeNode): bigint => node.attributes().modifiedNs
  if (flags.newer !== undefined) {
    const since = nanoseconds(parseSince(flags.newer, now, '--newer'))
    conditions.push((_name, node) => modified(node) > since)
  }
  if (flags.older !== undefined) {
    const until = nanoseconds(parseSince(flags.older, now, '--older'))
    conditions.push((_name, node) => modified(node) < until)
  }
  const size = (node: TreeNode): number => (node.kind === 'file' ? node.attributes().size : Number.NaN)
  if (flags.larger !== undefined) {
    const least = parseBytes(flags.larger, '--larger')
    conditions.push((_name, node) => size(node) > least)
  }
  if (flags.smaller !== undefined) {
    const most = parseBytes(flags.smaller, '--smaller')
    conditions.push((_name, node) => size(node) < most)
  }
  return (name, node) => conditions.every(condition => condition(name, node))
}

const nanoseconds = (time: Date): bigint => BigInt(time.getTime()) * 1_000_000n
