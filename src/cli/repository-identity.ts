/**
 * What this host remembers of each repository since it first opened it: a `config` that was exchanged is noticed, for one
 * that was made by an attacker to receive the next backups in the clear.
 */
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import type { RepositoryIdentity } from '../repository/open.ts'

const fileOf = (stateDir: string, url: string): string =>
  path.join(stateDir, 'repositories', `${createHash('sha256').update(url).digest('hex').slice(0, 32)}.json`)

/** Undefined at first use. */
export async function knownIdentity(stateDir: string, url: string): Promise<RepositoryIdentity | undefined> {
  const file = fileOf(stateDir, url)
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw new LifeboatError('usage', `what this host remembers of the repository cannot be read: ${file}`, {
      hint: 'give yourself the right to read it, or name another LIFEBOAT_STATE_DIR',
      cause: error,
    })
  }
  const identity = parseIdentity(text)
  if (identity) return identity
  throw new LifeboatError('usage', `${file} is damaged: it should hold what this host remembers of the repository`, {
    hint: 'remove it if you are sure that the repository is the right one',
  })
}

/** Written once, at first use; not being able to is no reason to refuse a restore. */
export async function rememberIdentity(stateDir: string, url: string, identity: RepositoryIdentity): Promise<void> {
  const file = fileOf(stateDir, url)
  try {
    if (await knownIdentity(stateDir, url)) return
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 })
    const temporary = `${file}.${process.pid}`
    try {
      await writeFile(temporary, `${JSON.stringify({ url, ...identity })}\n`, { mode: 0o600 })
      await rename(temporary, file)
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    }
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && READ_ONLY.has(String(error.code)))) throw error
  }
}

const READ_ONLY: ReadonlySet<string> = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOSPC'])

export const forgetIdentity = (stateDir: string, url: string): Promise<void> =>
  rm(fileOf(stateDir, url), { force: true })

function parseIdentity(text: string): RepositoryIdentity | undefined {
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof document !== 'object' || document === null) return undefined
  if (!('repository' in document && 'encryption' in document && 'keyCheck' in document)) return undefined
  const { repository, encryption, keyCheck } = document
  if (typeof repository !== 'string' || typeof keyCheck !== 'string') return undefined
  if (encryption !== 'aes-256-gcm' && encryption !== 'none') return undefined
  return { repository, encryption, keyCheck }
}
