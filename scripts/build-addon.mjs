// Builds native/*.cc into build/lifeboat.node with one call of g++, where anything that it depends on has changed.
// Plain JavaScript without dependencies: it runs before `npm install` has brought a newer Node.
// xxHash is a header of xxhash-addon, which JavaScript uses for the same checksums.
//
// libzstd is linked statically and its symbols are hidden, because Node exports its own zstd of another version, which would
// win over a shared library. OpenSSL is Node's own: its symbols stay undefined here and are found when the addon is loaded.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const headers = join(root, 'node_modules', 'node-api-headers', 'include')
const xxhash = join(root, 'node_modules', 'xxhash-addon', 'xxHash')
const output = join(root, 'build', 'lifeboat.node')
const stampFile = join(root, 'build', 'lifeboat.stamp')

const COMPILE = [
  '-std=c++17',
  '-O2',
  '-g1',
  '-fPIC',
  '-fvisibility=hidden',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-D_GNU_SOURCE',
]
const DEFINES = ['-DNAPI_VERSION=8', '-DNODE_GYP_MODULE_NAME=lifeboat']
const LINK = ['-shared', '-pthread', '-Wl,-Bsymbolic', '-Wl,--exclude-libs,ALL', '-Wl,-z,now', '-Wl,-z,relro']

const MISSING =
  'The addon needs a C++ compiler and zstd: install the Debian packages g++ and libzstd-dev (apt-get install g++ libzstd-dev).'

/** Ends with a message for the person at the terminal instead of a stack. */
export class AddonBuildError extends Error {}

function run(command, args) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  } catch (error) {
    if (error.code === 'ENOENT') throw new AddonBuildError(`${command} is missing. ${MISSING}`)
    const output = String(error.stderr || error.message)
    if (output.includes('zstd.h: No such file')) throw new AddonBuildError(`zstd.h is missing. ${MISSING}`)
    throw new AddonBuildError(`${command} failed:\n${output}`)
  }
}

/** Whether it built. Throws AddonBuildError. */
export function buildAddon({ force = false } = {}) {
  const compiler = process.env.CXX || 'g++'
  const zstd = run(compiler, ['-print-file-name=libzstd.a']).trim()
  if (!isAbsolute(zstd)) throw new AddonBuildError(`libzstd.a is missing. ${MISSING}`)
  for (const folder of [headers, xxhash])
    if (!existsSync(folder)) throw new AddonBuildError(`${folder} is missing: run \`npm ci\` first.`)

  const native = join(root, 'native')
  const files = readdirSync(native)
    .filter(name => /\.(cc|h)$/.test(name))
    .sort()
  const sources = files.filter(name => name.endsWith('.cc')).map(name => join(native, name))
  const flags = [...COMPILE, ...DEFINES, `-I${headers}`, `-I${xxhash}`, ...LINK]

  const hash = createHash('sha256')
  const depends = [
    ...files.map(name => join(native, name)),
    ...readdirSync(headers)
      .sort()
      .map(name => join(headers, name)),
    join(xxhash, 'xxhash.h'),
    zstd,
  ]
  hash.update(
    JSON.stringify([
      process.arch,
      run(compiler, ['-dumpfullversion', '-dumpversion']),
      flags.map(flag => flag.replace(root, '')),
    ]),
  )
  for (const file of depends) hash.update(readFileSync(file))
  const stamp = hash.digest('hex')
  const known = existsSync(output) && existsSync(stampFile) ? readFileSync(stampFile, 'utf8').trim() : ''
  if (known === stamp && !force) return false

  // Under a name of its own and renamed, so that two builds at once and processes that have it loaded do not meet.
  mkdirSync(dirname(output), { recursive: true })
  const fresh = `${output}.${process.pid}`
  try {
    run(compiler, [...flags, '-o', fresh, ...sources, zstd])
    renameSync(fresh, output)
  } finally {
    rmSync(fresh, { force: true })
  }
  writeFileSync(`${stampFile}.${process.pid}`, `${stamp}\n`)
  renameSync(`${stampFile}.${process.pid}`, stampFile)
  return true
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const built = buildAddon({ force: process.argv.includes('--force') })
    console.log(built ? 'Built build/lifeboat.node' : 'build/lifeboat.node is up to date')
  } catch (error) {
    if (!(error instanceof AddonBuildError)) throw error
    console.error(error.message)
    process.exitCode = 1
  }
}
