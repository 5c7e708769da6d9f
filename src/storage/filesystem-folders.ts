/**
 * The folders of a directory store: that the root is still the one that was opened, and that a folder is durable before a
 * file is put into it.
 *
 * A root that has vanished or changed (a disk unmounted under a running agent) must not look like an empty repository,
 * must not make its objects look lost, and must not be made anew on the disk below.
 */
import { dirname } from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { Files } from './files.ts'
import { isAbsent, systemCode, translateFileError } from './filesystem-errors.ts'

const FOLDER_MODE = 0o700
const MOUNT_HINT = 'Check the path, and that the disk or share with the repository is mounted.'

export class FolderTree {
  readonly #root: string
  readonly #files: Files
  readonly #create: boolean
  /** Its number when it was first seen. A mount point whose disk is gone has another; the same disk mounted again has not. */
  #rootInode: number | undefined
  readonly #durable = new Set<string>()

  constructor(root: string, files: Files, create: boolean) {
    this.#root = root
    this.#files = files
    this.#create = create
  }

  pathOf(key: string): string {
    return key === '' ? this.#root : `${this.#root}/${key}`
  }

  /** False where there is no root yet and this store may make it. Every other doubt about the root is an error. */
  async rootExists(): Promise<boolean> {
    try {
      const status = await this.#files.status(this.#root)
      if (status.kind !== 'folder')
        throw new LifeboatError('not-a-repository', `${this.#root} is not a folder`, { hint: MOUNT_HINT })
      if (this.#rootInode !== undefined && this.#rootInode !== status.inode) throw this.#vanished()
      this.#rootInode = status.inode
      return true
    } catch (error) {
      if (!isAbsent(error)) throw translateFileError(error, this.#root, '')
      if (this.#rootInode !== undefined) throw this.#vanished(error)
      if (this.#create) return false
      throw new LifeboatError('store-not-found', `There is no folder ${this.#root}`, { hint: MOUNT_HINT, cause: error })
    }
  }

  #vanished(cause?: unknown): LifeboatError {
    return new LifeboatError('store-unreachable', `The folder ${this.#root} is no longer the one that was opened`, {
      retry: 'transient',
      hint: MOUNT_HINT,
      cause,
    })
  }

  /** Returns once `folder` (a key without its last part, or '') exists and will exist after a power cut; true at its first use. */
  async prepare(folder: string): Promise<boolean> {
    if (!(await this.rootExists())) {
      await this.#makeWithParents(this.#root)
      await this.rootExists()
    }
    if (this.#durable.has(folder)) return false
    if (folder !== '') await this.#makeBelowRoot(folder)
    if (this.#durable.size >= limits.durableFoldersMax) this.#durable.clear()
    this.#durable.add(folder)
    return true
  }

  /** Somebody removed it: the next prepare makes it again. */
  forget(folder: string): void {
    this.#durable.delete(folder)
  }

  /** A folder that is there already may be another writer's, made and not yet synced: its parent is synced all the same. */
  async #makeBelowRoot(folder: string): Promise<void> {
    const parts = folder.split('/')
    for (let depth = 1; depth <= parts.length; depth++) {
      const key = parts.slice(0, depth).join('/')
      if (this.#durable.has(key)) continue
      const path = this.pathOf(key)
      await this.#makeOne(path)
      const { kind } = await this.#files.linkStatus(path)
      if (kind !== 'folder')
        throw new LifeboatError('store-denied', `${path} is in the way: it is not a folder`, {
          hint: 'Lifeboat follows no symbolic links inside a repository. Move it away.',
        })
      await this.#files.syncFolder(dirname(path))
    }
  }

  async #makeWithParents(path: string): Promise<void> {
    try {
      await this.#makeOne(path)
    } catch (error) {
      if (systemCode(error) !== 'ENOENT' || dirname(path) === path) throw error
      await this.#makeWithParents(dirname(path))
      await this.#makeOne(path)
    }
    await this.#files.syncFolder(dirname(path))
  }

  async #makeOne(path: string): Promise<void> {
    try {
      await this.#files.makeFolder(path, FOLDER_MODE)
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error
    }
  }
}
