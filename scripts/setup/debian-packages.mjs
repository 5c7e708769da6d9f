import { accessSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { PACKAGE_GROUPS } from '../tasks.mjs'
import { ask, askWhateverItsExitCode, runCommand } from './run-command.mjs'
import { SetupError, say } from './say.mjs'

/** Waits for a package manager that is at work already, instead of failing at once. */
const LOCK_WAIT = ['-o', 'DPkg::Lock::Timeout=600']
const UPDATE_TRIES = 20
// biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query fills it in.
const DPKG_LINE = '${Package} ${db:Status-Status}\\n'

/** Installs the Debian packages of `groups` that are missing; says which and why. */
export async function installDebianPackages(groups) {
  const missing = missingPackages(groups)
  if (missing.length === 0) return
  for (const group of groups) {
    const names = missing.filter(name => name in PACKAGE_GROUPS[group].packages)
    if (names.length > 0) say(`${PACKAGE_GROUPS[group].why}: ${names.join(', ')}`)
  }
  const sudo = aptPrefix(missing)
  say(`installing ${missing.length === 1 ? 'it' : `these ${missing.length} packages`} with apt-get`)
  const failure = await install(sudo, missing)
  const still = missingPackages(groups)
  if (still.length > 0) throw new SetupError(`${byHand(still)}\n\napt-get said:\n${lastLines(failure ?? '', 12)}`)
}

/** A package counts as present when dpkg has configured it, or when its program was put there by other means. */
export function missingPackages(groups) {
  const wanted = Object.assign({}, ...groups.map(group => PACKAGE_GROUPS[group].packages))
  const names = Object.keys(wanted)
  if (names.length === 0) return []
  const state = dpkgStates(names)
  return names.filter(name => {
    if (state.get(name) === 'installed') return false
    // Known to dpkg but not configured: an install that was interrupted, so its files prove nothing.
    if (state.has(name) && state.get(name) !== 'not-installed' && state.get(name) !== 'config-files') return true
    return !existsAnywhere(wanted[name])
  })
}

function dpkgStates(names) {
  // dpkg-query fails when one name is unknown to it and still lists the others.
  const listed = askWhateverItsExitCode('dpkg-query', ['-W', '-f', DPKG_LINE, ...names])
  return new Map(
    listed
      .split('\n')
      .filter(Boolean)
      .map(line => line.split(' ')),
  )
}

function existsAnywhere(path) {
  const name = path.slice(path.lastIndexOf('/') + 1)
  const isProgram = /\/s?bin\//.test(path)
  const folders = isProgram ? `${process.env.PATH ?? ''}${delimiter}/usr/sbin${delimiter}/sbin`.split(delimiter) : []
  return [path, ...folders.map(folder => join(folder, name))].some(candidate => {
    try {
      accessSync(candidate)
      return true
    } catch {
      return false
    }
  })
}

function aptPrefix(missing) {
  if (ask('apt-get', ['--version']) === undefined)
    throw new SetupError(`This machine has no apt-get. Please install by hand what Debian calls: ${missing.join(' ')}`)
  if (process.getuid?.() === 0) return []
  if (ask('sudo', ['-n', 'true']) !== undefined) return ['sudo', '-n']
  throw new SetupError(`${byHand(missing)}\n(This needs root, and sudo asks for a password here.)`)
}

const byHand = names =>
  `Please run this and start again:\n\n    sudo apt-get update && sudo apt-get install --no-install-recommends ${names.join(' ')}`

/** Resolves to apt-get's output when it failed twice. */
async function install(sudo, names) {
  const apt = args => runCommand(...prefixed(sudo, ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', ...args]))
  const getThem = () => apt(['install', '-y', '-q', '--no-install-recommends', ...LOCK_WAIT, ...names])
  if (ask('apt-cache', ['show', ...names]) === undefined) await update(apt)
  const first = await getThem()
  if (first.code === 0) return undefined
  say('apt-get failed; refreshing its lists and trying once more')
  await runCommand(...prefixed(sudo, ['env', 'DEBIAN_FRONTEND=noninteractive', 'dpkg', '--configure', '-a']))
  await update(apt)
  await apt(['install', '-y', '-q', '--fix-broken', ...LOCK_WAIT])
  const second = await getThem()
  return second.code === 0 ? undefined : second.output
}

/** The lists' lock has no waiting option of its own. */
async function update(apt) {
  for (let tries = 1; ; tries++) {
    const { output } = await apt(['update', '-q'])
    if (!/Could not get lock/.test(output) || tries === UPDATE_TRIES) return
    if (tries === 1) say('another apt-get is at work; waiting for it')
    await new Promise(resolve => setTimeout(resolve, 3000))
  }
}

function prefixed(sudo, command) {
  const [first, ...rest] = [...sudo, ...command]
  return [first, rest]
}

const lastLines = (text, count) =>
  text
    .trimEnd()
    .split('\n')
    .slice(-count)
    .map(line => `    ${line}`)
    .join('\n')
