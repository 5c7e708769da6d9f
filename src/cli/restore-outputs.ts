/** Where the disks of a restore go, looked at before the first byte is written, and taken back where one of them fails. */
import { mkdir, rm, rmdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError, messageOf } from '../core/errors.ts'

export interface RestoreOutputs {
  readonly ofDisk: ReadonlyMap<string, string>
  /** Removes what this restore has made: outputs that were not there before, and the folder. */
  takeBack(): Promise<void>
}

interface OutputsRequest {
  readonly output: string
  /** The one that was named; undefined: all, into a folder. */
  readonly disk: string | undefined
  readonly names: readonly string[]
  readonly format: string
  /** --force or --onto. */
  readonly mayExist: boolean
}

/** Throws 'usage' or 'output-exists', and has changed nothing then. */
export async function restoreOutputs({
  output,
  disk,
  names,
  format,
  mayExist,
}: OutputsRequest): Promise<RestoreOutputs> {
  if (output === '')
    throw new LifeboatError('usage', '--output names nothing', { hint: 'for example --output disk.raw' })
  if (disk !== undefined) {
    const target = path.resolve(output)
    if ((await kindOf(target)) === 'folder')
      throw new LifeboatError('usage', `${output} is a folder`, {
        details: { object: target },
        hint: `Name a file in it: --output ${path.join(output, fileName(disk, format))}`,
      })
    return { ofDisk: new Map([[disk, target]]), takeBack: async () => {} }
  }
  const ofDisk = filesIn(path.resolve(output), names, format)
  const made = await folderFor(output, async () => {
    if (!mayExist) for (const target of ofDisk.values()) await refuseExisting(target)
  })
  const before = new Set<string>()
  for (const target of ofDisk.values()) if ((await kindOf(target)) !== 'nothing') before.add(target)
  return {
    ofDisk,
    async takeBack() {
      for (const target of ofDisk.values()) if (!before.has(target)) await rm(target, { force: true })
      if (made !== undefined) await removeFolders(path.resolve(output), made)
    },
  }
}

/** A disk's name may hold what a file's may not. */
const fileName = (disk: string, format: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about.
  `${disk.replace(/[/\x00-\x1f\x7f]/g, '_')}.${format}`

function filesIn(folder: string, names: readonly string[], format: string): ReadonlyMap<string, string> {
  const ofDisk = new Map<string, string>()
  const taken = new Map<string, string>()
  for (const disk of names) {
    const target = path.join(folder, fileName(disk, format))
    const other = taken.get(target)
    if (other !== undefined)
      throw new LifeboatError('usage', `disks '${other}' and '${disk}' would both become ${target}`, {
        hint: 'Restore them one by one: name the point with /DISK, and a file as --output.',
      })
    taken.set(target, disk)
    ofDisk.set(disk, target)
  }
  return ofDisk
}

/** Gives the topmost folder that had to be made. `check` is asked before. */
async function folderFor(output: string, check: () => Promise<void>): Promise<string | undefined> {
  const kind = await kindOf(output)
  if (kind === 'other')
    throw new LifeboatError('usage', `${output} is not a folder, and all disks of a point need one`, {
      details: { object: output },
      hint: 'Name another --output, or one disk: POINT/DISK.',
    })
  await check()
  try {
    return await mkdir(output, { recursive: true })
  } catch (error) {
    throw new LifeboatError('output-failed', `the folder ${output} cannot be made: ${messageOf(error)}`, {
      details: { object: output },
      hint: 'Name a folder in a place that may be written to.',
      cause: error,
    })
  }
}

async function refuseExisting(target: string): Promise<void> {
  if ((await kindOf(target)) === 'nothing') return
  throw new LifeboatError('output-exists', `${target} exists`, {
    details: { object: target },
    hint: 'Name another folder, or say --force to replace what is in it, or --onto to write only the chunks that differ.',
  })
}

async function kindOf(file: string): Promise<'nothing' | 'folder' | 'other'> {
  const status = await stat(file).catch(() => undefined)
  if (!status) return 'nothing'
  return status.isDirectory() ? 'folder' : 'other'
}

/** As far as they are empty: what somebody else has put there meanwhile stays. */
async function removeFolders(lowest: string, highest: string): Promise<void> {
  for (let folder = lowest; folder.startsWith(highest); folder = path.dirname(folder))
    try {
      await rmdir(folder)
    } catch {
      return
    }
}
