/**
 * A directory as an object store: one file per object, its key the path below the root.
 *
 * An object is written under a temporary name in the folder of its key, synced, renamed, and the folder synced: a crash
 * or power cut at any moment leaves it whole or absent, and at worst a '.tmp-' file that no listing shows. Keys are safe
 * (`isSafeKey`), so that none leads out of the root.
 */
import { dirname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Clock, systemClock } from '../core/clock.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type Random, systemRandom } from '../core/random.ts'
import type { Range } from '../core/range.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { bodyLength, checkKey, checkPrefix, checkRange, clipRange, refuseRetention } from './checks.ts'
import { type FileStatus, type Files, nodeFiles, type OpenFile } from './files.ts'
import { isAbsent, notFound, systemCode, translateFileError } from './filesystem-errors.ts'
import { FolderTree } from './filesystem-folders.ts'
import { TEMPORARY, walkFolder } from './filesystem-list.ts'
import type { ObjectInfo, ObjectStore, PutOptions, StoreReceipt } from './object-store.ts'
import { conflict, truncated } from './store-errors.ts'

const FILE_MODE = 0o600

export interface FilesystemOptions {
  readonly files?: Files
  readonly random?: Random
  /** Asked only where the directory cannot be written to, and so cannot tell its own time. */
  readonly clock?: Clock
  /** Makes an absent root at the first put; until then it is empty. For `init` alone: elsewhere an absent root is an unmounted disk. */
  readonly create?: boolean
  readonly pageNames?: number
}

export function filesystemStore(path: string, options: FilesystemOptions = {}): ObjectStore {
  const { files = nodeFiles, random = systemRandom, clock = systemClock, pageNames = limits.folderPageNames } = options
  const root = resolve(path)
  const tree = new FolderTree(root, files, options.create ?? false)
  const closings = new Set<Promise<void>>()

  /** An absent object is only believed after a look at the root: with the disk unmounted everything is absent. */
  async function attempt<T>(key: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (isAbsent(error)) await tree.rootExists()
      throw translateFileError(error, tree.pathOf(key), key)
    }
  }

  async function get(key: string, range?: Range, { signal }: AbortOptions = {}): Promise<Uint8Array> {
    checkKey(key)
    checkRange(range)
    signal?.throwIfAborted()
    return attempt(key, async () => {
      const file = await files.openForReading(tree.pathOf(key))
      try {
        return await readRange(file, key, range, signal)
      } finally {
        closeBehind(file)
      }
    })
  }

  async function readRange(file: OpenFile, key: string, range: Range | undefined, signal: AbortSignal | undefined) {
    const isSmall = range !== undefined && range.length > 0 && range.length <= limits.getBytesMax
    // Read while it is asked how long the file is: every hand-over to a thread is time for a guest that waits.
    const early = isSmall ? uninitialised(range.length) : undefined
    const reading = early && range && file.readAt(early, range.offset)
    reading?.catch(() => {})
    const { kind, size } = await file.status()
    if (kind !== 'file') throw notFound(tree.pathOf(key), key)
    const { offset, length } = clipRange(key, size, range)
    signal?.throwIfAborted()
    const bytes = early ?? uninitialised(length)
    const read = length === 0 ? 0 : await (reading ?? file.readAt(bytes, offset))
    if (read < length) throw truncated(key)
    return bytes.length === length ? bytes : bytes.slice(0, length)
  }

  /** Nobody who has read waits for it, and no failure of it harms what was read. */
  function closeBehind(file: OpenFile): void {
    const closed: Promise<void> = file
      .close()
      .catch(() => {})
      .finally(() => closings.delete(closed))
    closings.add(closed)
  }

  async function head(key: string, { signal }: AbortOptions = {}): Promise<ObjectInfo | undefined> {
    checkKey(key)
    signal?.throwIfAborted()
    return attempt(key, async () => {
      const status = await statusOf(key)
      if (status?.kind === 'file') return { key, size: status.size, modifiedAt: status.modifiedAt }
      if (!status) await tree.rootExists()
      return undefined
    })
  }

  async function statusOf(key: string): Promise<FileStatus | undefined> {
    try {
      return await files.linkStatus(tree.pathOf(key))
    } catch (error) {
      if (isAbsent(error)) return undefined
      throw error
    }
  }

  async function put(key: string, body: readonly Uint8Array[], options: PutOptions = {}): Promise<StoreReceipt> {
    checkKey(key)
    refuseRetention(key, options)
    const { signal } = options
    signal?.throwIfAborted()
    await attempt(key, async () => {
      if (options.ifAbsent && (await statusOf(key))) throw conflict(key)
      const folder = dirname(`/${key}`).slice(1)
      const isFirst = await tree.prepare(folder)
      const temporary = await writeTemporary(folder, body, signal)
      try {
        signal?.throwIfAborted()
        await publish(temporary, key, options.ifAbsent ?? false)
      } catch (error) {
        await files.unlink(temporary).catch(() => undefined) // Best effort: listings do not show it, and leftovers are removed later.
        throw error
      }
      await files.syncFolder(tree.pathOf(folder))
      if (isFirst) await removeLeftovers(folder, key)
    })
    return {}
  }

  /** A folder that this store knew may have been removed by hand since, so one failure is answered by making it again. */
  async function writeTemporary(folder: string, body: readonly Uint8Array[], signal?: AbortSignal): Promise<string> {
    const temporary = `${tree.pathOf(folder)}/${TEMPORARY}${hex(random(8))}`
    const file = await files.createForWriting(temporary, FILE_MODE).catch(async error => {
      if (!isAbsent(error)) throw error
      tree.forget(folder)
      await tree.prepare(folder)
      return files.createForWriting(temporary, FILE_MODE)
    })
    try {
      await using open = closing(file)
      signal?.throwIfAborted()
      if (bodyLength(body) > 0) await open.append(body)
      await open.sync()
    } catch (error) {
      await files.unlink(temporary).catch(() => undefined) // The first error is the one to tell.
      throw error
    }
    return temporary
  }

  async function publish(temporary: string, key: string, ifAbsent: boolean): Promise<void> {
    const path = tree.pathOf(key)
    if (!ifAbsent) return files.rename(temporary, path)
    try {
      await files.link(temporary, path)
    } catch (error) {
      if (systemCode(error) === 'EEXIST') throw conflict(key)
      if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(systemCode(error) ?? '')) throw error
      // Filesystems without hard links (exFAT, some shares): no longer atomic, which `probe` finds out and nobody relies on.
      if (await statusOf(key)) throw conflict(key)
      return files.rename(temporary, path)
    }
    await files.unlink(temporary)
  }

  /** What a killed writer left behind, judged by the filesystem's own clock. A writer that is only slow fails its rename and puts again. */
  async function removeLeftovers(folder: string, freshKey: string): Promise<void> {
    try {
      const now = (await files.linkStatus(tree.pathOf(freshKey))).modifiedAt.getTime()
      for await (const { name } of files.entries(tree.pathOf(folder))) {
        if (!name.startsWith(TEMPORARY)) continue
        const path = `${tree.pathOf(folder)}/${name}`
        const { kind, modifiedAt } = await files.linkStatus(path)
        if (kind === 'file' && now - modifiedAt.getTime() > limits.leftoverAgeMs) await files.unlink(path)
      }
    } catch {
      // The object is stored; that some garbage could not be removed is no reason to fail.
    }
  }

  async function* list(prefix: string, { startAfter = '', signal }: { startAfter?: string } & AbortOptions = {}) {
    checkPrefix(prefix)
    signal?.throwIfAborted()
    try {
      if (!(await tree.rootExists())) return
      const folder = prefix.slice(0, prefix.lastIndexOf('/') + 1)
      yield* walkFolder({ root, files, prefix, startAfter, pageNames, signal }, folder)
      await tree.rootExists() // Folders of a disk that went away meanwhile looked empty.
    } catch (error) {
      throw translateFileError(error, tree.pathOf(prefix), prefix)
    }
  }

  async function remove(keys: readonly string[], options: AbortOptions = {}): Promise<void> {
    for (const key of keys) checkKey(key)
    const folders = new Set<string>()
    await forEachLimited(
      keys,
      limits.fileCallsInFlight,
      async key => {
        options.signal?.throwIfAborted()
        if (await attempt(key, () => unlinkIfThere(key))) folders.add(dirname(`/${key}`).slice(1))
      },
      options,
    )
    for (const folder of folders) await attempt(folder, () => files.syncFolder(tree.pathOf(folder)))
  }

  async function unlinkIfThere(key: string): Promise<boolean> {
    try {
      await files.unlink(tree.pathOf(key))
      return true
    } catch (error) {
      if (systemCode(error) === 'EISDIR') return false // A folder is no object.
      if (!isAbsent(error)) throw error
      await tree.rootExists()
      return false
    }
  }

  /** The filesystem's clock, which on a share is the server's. A read-only one cannot be asked, and only display depends on it. */
  async function now({ signal }: AbortOptions = {}): Promise<Date> {
    signal?.throwIfAborted()
    if (!(await tree.rootExists())) return clock.now()
    const temporary = `${root}/${TEMPORARY}${hex(random(8))}`
    try {
      await using file = closing(await files.createForWriting(temporary, FILE_MODE))
      const { modifiedAt } = await file.status()
      await files.unlink(temporary)
      return modifiedAt
    } catch {
      return clock.now()
    }
  }

  const store: ObjectStore = {
    url: pathToFileURL(root).href,
    get,
    head,
    put,
    list,
    delete: remove,
    now,
    probe: async () => ({ versioning: false, objectLock: false }),
    [Symbol.asyncDispose]: async () => {
      await Promise.all(closings)
    },
  }
  return store
}

const closing = (file: OpenFile): OpenFile & AsyncDisposable => ({
  ...file,
  [Symbol.asyncDispose]: () => file.close(),
})

/** Memory of its own (not a slice of Node's pool), so that whoever keeps a small object keeps nothing else alive. */
const uninitialised = (length: number): Uint8Array => {
  const { buffer, byteOffset } = Buffer.allocUnsafeSlow(length)
  return new Uint8Array(buffer, byteOffset, length)
}
