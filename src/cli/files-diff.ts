/** `files diff`: what was added, removed and changed below a path between two points of a VM. */
import { LifeboatError } from '../core/errors.ts'
import { compareTrees, type TreeChange } from '../files/compare-trees.ts'
import type { TreeNode } from '../files/file-tree.ts'
import { FileProblems } from './files-problems.ts'
import { sameDisks } from './files-same.ts'
import { shownName, timeText } from './files-text.ts'
import type { FoundPlace } from './files-volume.ts'
import type { OpenChosenGuest } from './guests.ts'
import type { Invocation } from './invocation.ts'
import type { LiveRepository } from './live-reads.ts'
import { type OpenedFiles, openFiles } from './open-files.ts'
import { type ResolvedPoint, resolvePoint } from './resolve-point.ts'
import { formatBytes } from './units.ts'

export interface DiffFlags {
  readonly content?: boolean
}

/** Names that say more than their letters: at the beginning of a line, as diff and git have it. */
const MARK: Readonly<Record<TreeChange['change'], string>> = { added: '+', removed: '-', changed: '~', unread: '?' }

export async function diffFiles(
  invocation: Invocation,
  repository: LiveRepository,
  guests: OpenChosenGuest,
  words: readonly string[],
  { content = false }: DiffFlags,
): Promise<number> {
  const { output, signal } = invocation
  const { before, after, path } = await pointsOf(repository, words, signal)
  const [old, young] = await Promise.all([
    repository.repository.manifest(before.point, { signal }),
    repository.repository.manifest(after.point, { signal }),
  ])
  const problems = new FileProblems()
  const entries: object[] = []
  const counts = { added: 0, removed: 0, changed: 0, unread: 0 }
  const isSame = sameDisks(old, young)
  let volume: string | undefined
  if (!isSame.all) {
    await using opened = await openBoth(invocation, repository, before, after, guests)
    const sides = await findBoth(opened, before.reference.disk ?? after.reference.disk, path)
    volume = sides.volume.name
    const isUnchanged = sides.volume.disk !== undefined && isSame.disk(sides.volume.disk)
    const changes = isUnchanged ? [] : compareTrees(sides, { contents: content, signal })
    for await (const change of changes) {
      counts[change.change] += 1
      if (change.problem) problems.add(change.path, change.problem.message, change.problem)
      if (output.options.json) entries.push(documentOf(change))
      else output.line(`${MARK[change.change]} ${shownName(change.path || '/')}${detailOf(change)}`)
    }
  }
  const document = { from: old.point, to: young.point, vm: old.vm, volume, path, ...counts, entries }
  output.result({ ...document, ...problems.document }, () => {})
  if (isSame.all) output.message('the disks of both points are the same')
  else if (counts.added + counts.removed + counts.changed === 0) output.message(`nothing differs below ${path}`)
  return problems.tell(output)
}

async function pointsOf(
  { repository }: LiveRepository,
  [older = '', newer = '', place = '']: readonly string[],
  signal: AbortSignal,
): Promise<{ before: ResolvedPoint; after: ResolvedPoint; path: string }> {
  const before = await resolvePoint(repository, older, { signal })
  const after = await resolvePoint(repository, newer, { signal })
  if (before.point.vm !== after.point.vm)
    throw new LifeboatError('usage', `${older} and ${newer} are points of two VMs`, {
      hint: 'Compare two points of one VM.',
    })
  const path = place || after.reference.path || before.reference.path || '/'
  if (path.startsWith('/')) return { before, after, path }
  throw new LifeboatError('usage', `'${path}' is no path inside the guest`, {
    hint: 'For example: lifeboat files diff web1@latest~1 web1@latest /etc; the volume, where there are several, is named with the points: web1@latest/vda/p2.',
  })
}

interface OpenedPair extends AsyncDisposable {
  readonly before: OpenedFiles
  readonly after: OpenedFiles
}

/** Both at once: each waits for its own disks. */
async function openBoth(
  invocation: Invocation,
  repository: LiveRepository,
  before: ResolvedPoint,
  after: ResolvedPoint,
  guests: OpenChosenGuest,
): Promise<OpenedPair> {
  const opening = [before, after].map(({ point }) => openFiles(invocation, repository, point, guests))
  const settled = await Promise.allSettled(opening)
  const [left, right] = settled.map(result => (result.status === 'fulfilled' ? result.value : undefined))
  if (left && right)
    return {
      before: left,
      after: right,
      [Symbol.asyncDispose]: async () => {
        await Promise.all([left[Symbol.asyncDispose](), right[Symbol.asyncDispose]()])
      },
    }
  await (left ?? right)?.[Symbol.asyncDispose]()
  throw settled.find(result => result.status === 'rejected')?.reason
}

interface Sides {
  readonly volume: FoundPlace['volume']
  readonly path: string
  readonly before?: TreeNode
  readonly after?: TreeNode
}

/** A path that only one of the points has was added, or removed, with all that is in it. */
async function findBoth({ before, after }: OpenedPair, words: string | undefined, path: string): Promise<Sides> {
  const [left, right] = await Promise.allSettled([before.find(words, path), after.find(words, path)])
  const places = [left, right].map(side => (side.status === 'fulfilled' ? side.value : undefined))
  const known = places[1] ?? places[0]
  for (const side of [left, right])
    if (side.status === 'rejected' && !(known && isMissing(side.reason))) throw side.reason
  if (!known) throw new LifeboatError('internal', 'a path was found in no point, and no reason was given')
  return {
    volume: known.volume,
    path: known.path === '/' ? '' : known.path,
    before: places[0]?.node,
    after: places[1]?.node,
  }
}

const isMissing = (error: unknown): boolean => error instanceof LifeboatError && error.code === 'no-such-file'

/** The document of one change: what is there now, or was. */
function documentOf({ change, path, what, before, after }: TreeChange): object {
  const facts = (node: TreeNode | undefined) => {
    if (!node) return undefined
    const { size, modifiedNs, permissions, uid, gid } = node.attributes()
    return {
      kind: node.kind,
      size,
      modifiedAt: timeText(modifiedNs),
      mode: permissions.toString(8).padStart(4, '0'),
      uid,
      gid,
    }
  }
  const name = path.slice(path.lastIndexOf('/') + 1) || '/'
  return { name, path: path || '/', change, what, before: facts(before), after: facts(after) }
}

function detailOf({ change, what, before, after }: TreeChange): string {
  if (change !== 'changed') return after?.kind === 'directory' || before?.kind === 'directory' ? '/' : ''
  const [a, b] = [before?.attributes(), after?.attributes()]
  const sizes = what.includes('size') && a && b ? [`${formatBytes(a.size)} -> ${formatBytes(b.size)}`] : []
  return `  (${[...what.filter(one => one !== 'size'), ...sizes].join(', ')})`
}
