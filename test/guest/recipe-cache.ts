/**
 * Things that take long to build (kernel, images) are built once and kept under a name that holds the digest of their
 * recipe. A build happens in a folder with a temporary name and is renamed when it is whole, so what a killed run left is
 * never taken for a result; a lock keeps two runs from building the same thing at once.
 */
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { startTimeOf } from './process-record.ts'

/** Results that no run asked for in this time make room. */
const UNUSED_DAYS = 14

/** `.cache/` in the checkout, or LIFEBOAT_TEST_CACHE. */
export const cacheFolder = (): string =>
  resolve(process.env.LIFEBOAT_TEST_CACHE ?? fileURLToPath(new URL('../../.cache', import.meta.url)))

/**
 * Resolves to the folder that holds what `build` put into the folder it was given. `recipe` is everything that the result
 * depends on; a builder gives its own source by `sourceOf(import.meta.url)`, so that editing it builds anew.
 */
export async function cached(
  name: string,
  recipe: readonly string[],
  build: (folder: string) => Promise<void>,
): Promise<string> {
  const digest = createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 16)
  const result = join(cacheFolder(), `${name}-${digest}`)
  if (isThere(result)) return result
  mkdirSync(cacheFolder(), { recursive: true })
  await withLock(`${result}.lock`, async () => {
    if (isThere(result)) return
    removeOld(name)
    const fresh = `${result}.new`
    rmSync(fresh, { recursive: true, force: true })
    mkdirSync(fresh)
    await build(fresh)
    renameSync(fresh, result)
  })
  return result
}

export const sourceOf = (moduleUrl: string): string => readFileSync(fileURLToPath(moduleUrl), 'utf8')

function isThere(path: string): boolean {
  if (!existsSync(path)) return false
  const now = new Date()
  utimesSync(path, now, now)
  return true
}

function removeOld(name: string): void {
  const oldest = Date.now() - UNUSED_DAYS * 24 * 3_600_000
  const ofThisName = new RegExp(`^${name}-[0-9a-f]{16}(\\.new)?$`)
  for (const entry of readdirSync(cacheFolder()).filter(entry => ofThisName.test(entry))) {
    const path = join(cacheFolder(), entry)
    if (statSync(path).mtimeMs < oldest) rmSync(path, { recursive: true, force: true })
  }
}

async function withLock(path: string, work: () => Promise<void>): Promise<void> {
  const me = `${process.pid} ${startTimeOf(process.pid)}`
  while (!tryCreate(path, me)) {
    const [pid = '', startTime = ''] = readOrEmpty(path).split(' ')
    // A lock is written in one call; an empty one is its owner's first instant, or its last.
    if (pid === '' || startTimeOf(Number(pid)) !== startTime) {
      await sleep(50)
      if (readOrEmpty(path) === [pid, startTime].filter(Boolean).join(' ')) rmSync(path, { force: true })
    } else await sleep(500)
  }
  try {
    await work()
  } finally {
    rmSync(path, { force: true })
  }
}

function tryCreate(path: string, text: string): boolean {
  try {
    writeFileSync(path, text, { flag: 'wx' })
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
