// What the builds of native/ share: a compiler that may be missing, and outputs that are made anew where anything changed that
// they depend on. Plain JavaScript without dependencies: it runs before `npm install` has brought a newer Node.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))
export const compiler = () => process.env.CXX || 'g++'

/** Ends with a message for the person at the terminal instead of a stack. */
export class NativeBuildError extends Error {}

/** What `command` prints. `advice` is what to do where it is missing; `explain` makes an error of its complaints, if it knows them. */
export function run(command, args, { advice, explain = () => undefined }) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  } catch (error) {
    if (error.code === 'ENOENT') throw new NativeBuildError(`${command} is missing. ${advice}`)
    const output = String(error.stderr || error.message)
    throw new NativeBuildError(explain(output) ?? `${command} failed:\n${output}`)
  }
}

/**
 * Makes build/<name> by `make(fresh, stamp)`, unless it is there and was made from the same `words` and contents of `depends`.
 * Whether it did. Under a name of its own and renamed, so that two builds at once and processes that have it loaded do not meet.
 */
export function buildOnce({ name, stampName, depends, words, make, force = false }) {
  const output = join(root, 'build', name)
  const stampFile = join(root, 'build', stampName)
  const hash = createHash('sha256')
  hash.update(JSON.stringify([process.arch, ...words.map(word => word.replace(root, ''))]))
  for (const file of depends) hash.update(readFileSync(file))
  const stamp = hash.digest('hex')
  const known = existsSync(output) && existsSync(stampFile) ? readFileSync(stampFile, 'utf8').trim() : ''
  if (known === stamp && !force) return false
  mkdirSync(dirname(output), { recursive: true })
  const fresh = `${output}.${process.pid}`
  try {
    make(fresh, stamp)
    renameSync(fresh, output)
  } finally {
    rmSync(fresh, { force: true })
  }
  writeFileSync(`${stampFile}.${process.pid}`, `${stamp}\n`)
  renameSync(`${stampFile}.${process.pid}`, stampFile)
  return true
}

/** For a script's last lines: builds, says what came of it, and leaves errors of people's making without a stack. */
export function report(what, build) {
  try {
    const built = build({ force: process.argv.includes('--force') })
    console.log(built ? `Built ${what}` : `${what} is up to date`)
  } catch (error) {
    if (!(error instanceof NativeBuildError)) throw error
    console.error(error.message)
    process.exitCode = 1
  }
}
