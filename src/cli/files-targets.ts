/** What the places of a call mean: a path as it is, a pattern as all that it matches. */
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { glob, isPattern } from '../files/glob.ts'
import { walk } from '../files/walk.ts'
import type { PointReference } from '../repository/point-ref.ts'
import { below } from './files-entry.ts'
import type { FileProblems } from './files-problems.ts'
import { shownName } from './files-text.ts'
import type { FoundPlace } from './files-volume.ts'
import type { OpenedFiles } from './open-files.ts'

export interface Target extends FoundPlace {
  /** Named by a pattern: it is meant itself, not only what is in it. */
  readonly isMatched: boolean
  /** Where a copy of it goes, below the output: its name, or from the first `*` on. Of a root nothing. */
  readonly goesTo: readonly string[]
}

export interface TargetOptions extends AbortOptions {
  /** All that is in a directory is meant with it, so that no pattern has to look inside. */
  readonly isWhole?: boolean
}

/** A pattern that matches nothing is an error, as a path that is not there is. */
export async function* targetsOf(
  opened: OpenedFiles,
  places: readonly PointReference[],
  problems: FileProblems,
  options: TargetOptions,
): AsyncGenerator<Target> {
  for (const { disk, path = '/' } of places) {
    if (isPattern(path)) yield* matchesOf(opened, disk, path, problems, options)
    else {
      const found = await opened.find(disk, path)
      yield { ...found, isMatched: false, goesTo: found.path.split('/').slice(-1).filter(Boolean) }
    }
  }
}

async function* matchesOf(
  opened: OpenedFiles,
  disk: string | undefined,
  path: string,
  problems: FileProblems,
  { isWhole = false, signal }: TargetOptions,
): AsyncGenerator<Target> {
  const segments = path.split('/').filter(name => name !== '')
  const plain = segments.findIndex(isPattern)
  const start = await opened.find(disk, `/${segments.slice(0, plain).join('/')}`)
  const pattern = glob(segments.slice(plain).join('/'))
  const enters = (at: readonly string[]) => pattern.mayMatchBelow(at) && !(isWhole && pattern.matches(at))
  let isFound = false
  for await (const event of walk({ path: [], node: start.node }, { enters, signal })) {
    const at = event.path.reduce(below, start.path)
    if (event.kind === 'problem') problems.add(at, event.reason, event.error)
    if (event.kind !== 'entry' || event.path.length === 0 || !pattern.matches(event.path)) continue
    isFound = true
    yield { ...start, path: at, node: event.node, isMatched: true, goesTo: event.path }
  }
  if (isFound) return
  throw new LifeboatError('no-such-file', `nothing in ${start.volume.name} matches ${shownName(path)}`, {
    details: { object: path, volume: start.volume.name },
    hint: '`*`, `?`, `[`, `{` and `\\` make a pattern: a backslash before them means them as they are.',
  })
}
