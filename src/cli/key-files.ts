/** Key files on disk: read, and made with mode 0600. */
import { type FileHandle, open } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { KiB } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import { formatKeyFile, parseKeyFile } from '../crypto/key-file.ts'
import { readSmallFile } from './host-files.ts'

/** One line of 58 letters, and room for a page of comments. */
const KEY_FILE_MAX = 64 * KiB

export async function readKeyFile(path: string): Promise<Uint8Array> {
  let text: string
  try {
    text = await readSmallFile(path, KEY_FILE_MAX)
  } catch (error) {
    throw new LifeboatError('key-missing', `the key file ${path} cannot be read: ${messageOf(error)}`, {
      details: { object: path },
      hint: 'give the right file with --key-file or LIFEBOAT_KEY_FILE',
      cause: error,
    })
  }
  return parseKeyFile(text, path)
}

/** Makes `path` with a fresh secret; an existing one is read instead, since one key may serve several repositories. */
export async function readOrMakeKeyFile(path: string, random: Random): Promise<{ secret: Uint8Array; made: boolean }> {
  const secret = random(32)
  try {
    await makeKeyFile(path, secret)
    return { secret, made: true }
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST')
      return { secret: await readKeyFile(path), made: false }
    throw new LifeboatError('usage', `the key file ${path} cannot be made: ${messageOf(error)}`, {
      hint: 'name a place that can be written with --key-file or --new-key-file',
      cause: error,
    })
  }
}

/** Durable with its name: from now on a repository may depend on it. Throws EEXIST. */
async function makeKeyFile(path: string, secret: Uint8Array): Promise<void> {
  await written(path, 'wx', file => file.writeFile(formatKeyFile(secret)))
  await written(dirname(resolve(path)), 'r', async () => {})
}

async function written(path: string, flags: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, flags, 0o600)
  try {
    await write(file)
    await file.sync()
  } finally {
    await file.close()
  }
}
