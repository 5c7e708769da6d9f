/** Moves what was restored from its staging folder to where it was asked for. */
import type { Stats } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { chmod, lchown, lstat, readdir, rename, rmdir } from 'node:fs/promises'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { renameToNew, setTimes, setXattr, xattrsOf } from '../native/file-attributes.ts'
import { decodeName } from './name.ts'
import { systemCode } from './output-errors.ts'
import type { ProblemList } from './problems.ts'
import { openFolder, pathIn } from './staging.ts'

interface Options extends AbortOptions {
  /** Files replace those that are there, and directories are merged; else nothing that is there is touched. */
  readonly force: boolean
  readonly problems: ProblemList
}

export const outputExists = (name: string): LifeboatError =>
  new LifeboatError('output-exists', `${name} is in the target already`, {
    details: { object: name },
    hint: 'Choose another folder, or --force to replace files that are there.',
  })

/** Without `force` throws 'output-exists', and what has not been moved by then stays. */
export async function publish(
  from: FileHandle,
  to: FileHandle,
  options: Options,
  path: readonly string[] = [],
): Promise<void> {
  for (const name of await readdir(pathIn(from, '.'), { encoding: 'buffer' })) {
    options.signal?.throwIfAborted()
    await move(from, to, name, options, [...path, decodeName(name)])
  }
}

async function move(from: FileHandle, to: FileHandle, name: Buffer, options: Options, path: readonly string[]) {
  const [source, target] = [pathIn(from, name), pathIn(to, name)]
  const stat = await lstat(source)
  const there = await lstat(target).catch(ifAbsent)
  if (there === undefined) return stat.isDirectory() ? moveFolder(source, target, stat) : moveTo(source, target, path)
  if (!options.force) throw outputExists(path.join('/'))
  if (stat.isDirectory() && there.isDirectory()) return merge(source, target, stat, options, path)
  if (!stat.isDirectory() && !there.isDirectory()) return rename(source, target)
  options.problems.add(path, 'refused', there.isDirectory() ? 'a directory is in its place' : 'a file is in its place')
}

const ifAbsent = (error: unknown): undefined => {
  if (systemCode(error) !== 'ENOENT') throw error
}

async function moveTo(source: Buffer, target: Buffer, path: readonly string[]): Promise<void> {
  await renameToNew(source, target).catch(error => {
    if (systemCode(error) === 'EEXIST') throw outputExists(path.join('/'))
    // This filesystem cannot tell. It was not there a moment ago.
    if (systemCode(error) === 'EINVAL') return rename(source, target)
    throw error
  })
}

/** Moving a directory changes its '..', so that its owner must be allowed to write in it for as long. */
async function moveFolder(source: Buffer, target: Buffer, stat: Stats): Promise<void> {
  const mode = stat.mode & 0o7777
  if ((mode & 0o700) === 0o700) return rename(source, target)
  await chmod(source, mode | 0o700)
  await using folder = await openFolder(source)
  await rename(source, target)
  await folder.chmod(mode)
}

async function merge(source: Buffer, target: Buffer, stat: Stats, options: Options, path: readonly string[]) {
  const times = await lstat(source, { bigint: true })
  if ((stat.mode & 0o700) !== 0o700) await chmod(source, stat.mode | 0o700)
  await using from = await openFolder(source)
  await using to = await openFolder(target)
  await publish(from, to, options, path)
  const here = pathIn(to, '.')
  try {
    await lchown(here, stat.uid, stat.gid)
    for (const { name, value } of await xattrsOf(pathIn(from, '.'))) await setXattr(here, name, value)
    await to.chmod(stat.mode & 0o7777)
    await setTimes(here, times.atimeNs, times.mtimeNs)
  } catch (error) {
    options.problems.add(path, 'not-set', `attributes of the directory that was there: ${systemCode(error)}`)
  }
  // What was refused is still in it, and goes with the staging folder.
  await rmdir(source).catch(() => {})
}
