/**
 * What takes long to build is built once on a host, into a folder of the cache that is named by the digest of its recipe: another
 * version of Lifeboat with another recipe builds its own. A build happens under another name and is renamed when it is whole.
 */
import { createHash } from 'node:crypto'
import { mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import type { AbortOptions } from '../core/scope.ts'
import { oneAtATime } from '../hypervisor/one-at-a-time.ts'

export interface BuiltOnce extends AbortOptions {
  readonly clock: Clock
  readonly cacheDir: string
  readonly name: string
  /** All that the result depends on. */
  readonly recipe: readonly (string | Uint8Array)[]
  /** Puts the result into the empty folder that it is given. */
  readonly build: (folder: string) => Promise<void>
}

/** Results of other recipes that nobody asked for in this time make room. */
const UNUSED_MS = 30 * 24 * 3_600_000

/** Resolves to the folder of the result. */
export async function builtOnce(request: BuiltOnce): Promise<string> {
  const result = builtPlace(request)
  if (await isBuilt(result, request.clock.now())) return result
  await mkdir(request.cacheDir, { recursive: true, mode: 0o700 })
  await oneAtATime(`build/${createHash('sha256').update(path.resolve(result)).digest('hex')}`, async () => {
    request.signal?.throwIfAborted()
    if (await isBuilt(result, request.clock.now())) return
    await removeUnused(request)
    const fresh = `${result}.new`
    await rm(fresh, { recursive: true, force: true })
    await mkdir(fresh, { mode: 0o700 })
    try {
      await request.build(fresh)
      await rename(fresh, result)
    } finally {
      await rm(fresh, { recursive: true, force: true })
    }
  })
  return result
}

/** Where the result is, if it is. */
export function builtPlace({ cacheDir, name, recipe }: Pick<BuiltOnce, 'cacheDir' | 'name' | 'recipe'>): string {
  const digest = createHash('sha256')
  for (const part of recipe) {
    const bytes = Buffer.from(part)
    digest.update(`${bytes.length} `).update(bytes)
  }
  return path.join(cacheDir, `${name}-${digest.digest('hex').slice(0, 16)}`)
}

/** The folder's time says when somebody last asked for it. */
async function isBuilt(result: string, now: Date): Promise<boolean> {
  return utimes(result, now, now).then(
    () => true,
    // Somebody else's cache may be read without being written to.
    () =>
      stat(result).then(
        () => true,
        () => false,
      ),
  )
}

async function removeUnused({ cacheDir, name, clock }: BuiltOnce): Promise<void> {
  const ofThisName = new RegExp(`^${name}-[0-9a-f]{16}(\\.new)?$`)
  for (const entry of await readdir(cacheDir)) {
    if (!ofThisName.test(entry)) continue
    const place = path.join(cacheDir, entry)
    const { mtimeMs } = await stat(place)
    if (clock.now().getTime() - mtimeMs > UNUSED_MS) await rm(place, { recursive: true, force: true })
  }
}
