import { createHash } from 'node:crypto'
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { ask, runCommand } from './run-command.mjs'
import { SetupError, say } from './say.mjs'

const stampPath = root => join(root, 'node_modules', '.lifeboat-setup')

/** Node 24 as the npm package `node` ships it. */
export const packagedNode = root => join(root, 'node_modules', 'node', 'bin', 'node')

/**
 * The stamp holds the digest of the lockfile that the last complete install came from. It is removed before an install
 * and written after it, so a killed install is seen as one that never was.
 */
export function npmPackagesAreCurrent(root) {
  if (!existsSync(packagedNode(root))) return false
  try {
    return readFileSync(stampPath(root), 'utf8') === lockDigest(root)
  } catch {
    return false
  }
}

const lockDigest = root =>
  createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex')

export async function installNpmPackages(root) {
  if (npmPackagesAreCurrent(root)) return
  const again = existsSync(join(root, 'node_modules'))
  say(
    `${again ? 'the npm packages are incomplete or out of date; installing them anew' : 'installing the npm packages'} (about a minute)`,
  )
  rmSync(stampPath(root), { force: true })
  const { code, output } = await npm(root, [
    'ci',
    '--include=dev',
    // Only those below run theirs: the others would ask nodejs.org for headers, and what fails is taken away again.
    '--ignore-scripts=true',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
  ])
  if (code !== 0)
    throw new SetupError(
      `npm ci failed. It said:\n\n${output.trim()}\n\nPlease put that right (is the npm registry reachable?) and start again.`,
    )
  await npm(root, ['rebuild', 'node', 'xxhash-addon', '--ignore-scripts=false'])
  const version = ask(packagedNode(root), ['--version'])
  if (version === undefined)
    throw new SetupError(
      'npm did not install Node 24 (its package `node` has an install script, which seems to be switched off).\nPlease run: npm rebuild node --ignore-scripts=false',
    )
  writeFileSync(`${stampPath(root)}.new`, lockDigest(root))
  renameSync(`${stampPath(root)}.new`, stampPath(root))
  say(`npm packages are ready, with Node ${version.trim()}`)
}

/**
 * npm itself must not run with the Node that it is about to replace, so this checkout's own folder of programs, which
 * `npm run` puts first, is taken out of PATH; and the settings of the outer `npm run` are not handed down.
 */
function npm(root, args) {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(lifecycle|package|command)/.test(name)),
  )
  env.PATH = (env.PATH ?? '')
    .split(delimiter)
    .filter(folder => !folder.startsWith(join(root, 'node_modules')))
    .join(delimiter)
  return runCommand('npm', args, { env, cwd: root })
}
