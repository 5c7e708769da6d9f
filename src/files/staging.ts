/**
 * Where files are restored before they appear in their target: a folder inside it that only its owner may enter, so that nobody
 * else can put a link in the way, nothing half done is seen under its name, and an interrupted restore is gone on with.
 *
 *     TARGET/.lifeboat-get-<of what>/   tree/   what is complete, under its names
 *                                       parts/  what is being written
 *                                       links/  the first name of each file that has several
 *                                       boot    the boot of this host that wrote all that
 */
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, lstat, mkdir, open, readdir, readFile, rm, rmdir, writeFile } from 'node:fs/promises'
import { LifeboatError } from '../core/errors.ts'
import { loadAddon } from '../native/native.ts'
import { outputError, systemCode } from './output-errors.ts'

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = constants

/** The kernel's own way to openat(2): whatever happens to the folder's name meanwhile, this is below the folder itself. */
export const pathIn = (folder: FileHandle, name: string | Uint8Array): Buffer =>
  Buffer.concat([Buffer.from(`/proc/self/fd/${folder.fd}/`), Buffer.from(name as Uint8Array)])

export const openFolder = (path: Buffer): Promise<FileHandle> => open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)

export interface Staging extends AsyncDisposable {
  readonly target: FileHandle
  readonly tree: FileHandle
  readonly parts: FileHandle
  readonly links: FileHandle
  /** There is something of an earlier run in it. */
  readonly isResumed: boolean
  /** Takes all of it away, before it is disposed of. */
  remove(): Promise<void>
  /** The same where another run would find nothing to go on with. */
  removeIfEmpty(): Promise<void>
}

/** Makes the target if there is none. A link that is named as the target is its user's word, and followed. */
export async function openStaging(target: string, resumeKey: string): Promise<Staging> {
  await using opened = new AsyncDisposableStack()
  try {
    await mkdir(target, { recursive: true })
    const folder = opened.use(await open(target, O_RDONLY | O_DIRECTORY))
    const name = `.lifeboat-get-${createHash('sha256').update(resumeKey).digest('hex').slice(0, 16)}`
    const path = pathIn(folder, name)
    const isNew = await makeFolder(path)
    const own = opened.use(await openFolder(path))
    if (!isNew) await checkOwn(own, `${target}/${name}`)
    lock(own, `${target}/${name}`)
    const isResumed = await keepOrEmpty(own)
    const parts = { tree: await below(own, 'tree'), parts: await below(own, 'parts'), links: await below(own, 'links') }
    for (const handle of Object.values(parts)) opened.use(handle)
    const owned = opened.move()
    const remove = async () => {
      for (const part of ['tree', 'parts', 'links', 'boot'])
        await rm(pathIn(own, part), { recursive: true, force: true })
      await rmdir(path)
    }
    return {
      target: folder,
      ...parts,
      isResumed,
      remove,
      async removeIfEmpty() {
        const names = await Promise.all([parts.tree, parts.links].map(part => readdir(pathIn(part, '.'))))
        if (names.flat().length === 0) await remove()
      },
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    }
  } catch (error) {
    throw outputError(error, target)
  }
}

/** False where there was one. */
async function makeFolder(path: Buffer): Promise<boolean> {
  try {
    await mkdir(path, { mode: 0o700 })
    return true
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error
    return false
  }
}

async function below(own: FileHandle, name: string): Promise<FileHandle> {
  await makeFolder(pathIn(own, name))
  return openFolder(pathIn(own, name))
}

/**
 * Somebody else may have put it there, to have it filled with what only this user may read. On a filesystem without modes, where
 * it cannot be made ours alone, nobody could hide anything.
 */
async function checkOwn(own: FileHandle, shown: string): Promise<void> {
  const { uid, mode } = await own.stat()
  const isOurs = uid === process.geteuid?.()
  if (isOurs && (mode & 0o077) === 0) return
  if (isOurs) await own.chmod(0o700)
  if (isOurs && ((await own.stat()).mode & 0o077) !== 0) return
  throw new LifeboatError('output-failed', `${shown} is not ours alone`, {
    details: { object: shown },
    hint: 'Find out who made it, and remove it.',
  })
}

function lock(own: FileHandle, shown: string): void {
  if (loadAddon().lockFile(own.fd) !== 0)
    throw new LifeboatError('output-failed', `Another run restores the same into ${shown}`, {
      details: { object: shown },
      hint: 'Wait until it has ended.',
    })
}

/**
 * Files of an earlier run count as complete by their size and times. After the host has crashed they prove nothing: contents
 * may not have reached the disk although the inode has. Then all is done again.
 */
async function keepOrEmpty(own: FileHandle): Promise<boolean> {
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  const file = pathIn(own, 'boot')
  const before = await readFile(file, 'utf8').catch(() => undefined)
  const kept = before === boot
  for (const part of kept ? ['parts'] : ['parts', 'tree', 'links', 'boot'])
    await rm(pathIn(own, part), { recursive: true, force: true })
  if (!kept) await writeFile(file, boot, { mode: 0o600, flag: 'wx' })
  return kept && (await lstat(pathIn(own, 'tree')).catch(() => undefined)) !== undefined
}
