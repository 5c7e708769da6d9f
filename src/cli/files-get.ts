/** `files get`: files out of a guest into a folder, a tar or a pipe. */
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Copied, CopyOptions } from '../files/copied.ts'
import { copyOut } from '../files/copy-out.ts'
import { writeTar } from '../files/tar.ts'
import type { PointReference } from '../repository/point-ref.ts'
import { type GetOutput, getOutput, sinkOf, writeContents } from './files-output.ts'
import { FileProblems } from './files-problems.ts'
import { getProgress } from './files-progress.ts'
import { type Target, targetsOf } from './files-targets.ts'
import { shownName } from './files-text.ts'
import type { Invocation } from './invocation.ts'
import type { OpenedFiles } from './open-files.ts'
import { formatBytes } from './units.ts'

export interface GetFlags {
  readonly output?: string
  readonly format?: string
  readonly devices?: boolean
  readonly setuid?: boolean
  readonly force?: boolean
}

/** All places are found before the first byte is written, so that a mistyped one leaves nothing behind. */
export async function getFiles(
  invocation: Invocation,
  opened: OpenedFiles,
  places: readonly PointReference[],
  flags: GetFlags,
): Promise<number> {
  const { output, signal } = invocation
  const to = await getOutput(flags, output.options.json)
  const problems = new FileProblems()
  const targets = await Array.fromAsync(targetsOf(opened, places, problems, { isWhole: true, signal }))
  refuseSameNames(targets)
  const { id: point, vm } = opened.point
  await using progress = getProgress(output, targets, { signal })
  const copied = await copy(invocation, opened, to, targets, { ...flags, onProgress: progress.update, signal })
  progress.stop()
  problems.addAll(copied.problems)
  const { problems: _told, ...counts } = copied
  const entries = targets.map(({ goesTo, path: from, node, volume }) => ({
    name: goesTo.at(-1) ?? '/',
    path: from,
    volume: volume.name,
    kind: node.kind,
    output: to.kind === 'folder' ? path.join(to.path, ...goesTo) : undefined,
  }))
  const target = to.kind === 'pipe' ? undefined : to.path
  // In a pipe goes what was asked for, and nothing else.
  const say = (text: string) => (to.kind === 'pipe' ? output.message(text) : output.line(text))
  output.result({ point, vm, output: target, entries, ...counts, ...problems.document }, () =>
    say(`${countsText(copied)}${target === undefined ? '' : ` to ${target}`}`),
  )
  return problems.tell(output)
}

function countsText({ files, directories, others, bytes, resumed }: Copied): string {
  const parts = [`${files} files (${formatBytes(bytes)})`]
  if (resumed > 0) parts.push(`${resumed} that were there already`)
  if (directories > 0) parts.push(`${directories} directories`)
  if (others > 0) parts.push(`${others} links and others`)
  return parts.join(', ')
}

/** Two directories may have files of one name; in the output they would be one. */
function refuseSameNames(targets: readonly Target[]): void {
  const seen = new Map<string, Target>()
  for (const target of targets) {
    const key = target.goesTo.join('/')
    const other = seen.get(key)
    if (other)
      throw new LifeboatError(
        'usage',
        `${shownName(other.path)} and ${shownName(target.path)} would both become ${shownName(key) || 'the output'}`,
        {
          hint: 'Get them one by one, each with an --output of its own, or the directory that holds both.',
        },
      )
    seen.set(key, target)
  }
}

async function copy(
  invocation: Invocation,
  opened: OpenedFiles,
  to: GetOutput,
  targets: readonly Target[],
  options: GetFlags & CopyOptions & AbortOptions,
): Promise<Copied> {
  const sources = targets.map(({ goesTo, node }) => ({ path: goesTo, node }))
  if (to.kind === 'folder')
    return await copyOut(sources, to.path, { ...options, resumeKey: resumeKey(opened, targets, options) })
  const [only] = targets
  await using sink = await sinkOf(invocation, to, options)
  if (!to.isTar && only?.node.kind === 'file' && targets.length === 1) {
    const copied = await writeContents(only.node, sink.write, options)
    await sink.finish()
    return copied
  }
  const copied = await writeTar(sources, sink.write, options)
  await sink.finish()
  return copied
}

/** The same call goes on with what another one left. */
const resumeKey = (
  { point }: OpenedFiles,
  targets: readonly Target[],
  { devices = false, setuid = false }: GetFlags,
): string =>
  JSON.stringify([point.id, devices, setuid, targets.map(({ volume, path, goesTo }) => [volume.name, path, goesTo])])
