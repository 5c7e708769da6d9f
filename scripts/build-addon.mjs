// Builds native/*.cc into build/lifeboat.node with one call of g++, where anything that it depends on has changed.
// Plain JavaScript without dependencies: it runs before `npm install` has brought a newer Node.
// xxHash is a header of xxhash-addon, which JavaScript uses for the same checksums.
//
// libzstd is linked statically and its symbols are hidden, because Node exports its own zstd of another version, which would
// win over a shared library. OpenSSL is Node's own: its symbols stay undefined here and are found when the addon is loaded.
import { existsSync, readdirSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildOnce, compiler, NativeBuildError, report, root, run } from './native-build.mjs'

const headers = join(root, 'node_modules', 'node-api-headers', 'include')
const xxhash = join(root, 'node_modules', 'xxhash-addon', 'xxHash')

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

const compilerSays = args =>
  run(compiler(), args, {
    advice: MISSING,
    explain: output => (output.includes('zstd.h: No such file') ? `zstd.h is missing. ${MISSING}` : undefined),
  })

/** Whether it built. Throws NativeBuildError. */
export function buildAddon({ force = false } = {}) {
  const zstd = compilerSays(['-print-file-name=libzstd.a']).trim()
  if (!isAbsolute(zstd)) throw new NativeBuildError(`libzstd.a is missing. ${MISSING}`)
  for (const folder of [headers, xxhash])
    if (!existsSync(folder)) throw new NativeBuildError(`${folder} is missing: run \`npm ci\` first.`)

  const native = join(root, 'native')
  const files = readdirSync(native)
    .filter(name => /\.(cc|h)$/.test(name))
    .sort()
    .map(name => join(native, name))
  const sources = files.filter(name => name.endsWith('.cc'))
  const flags = [...COMPILE, ...DEFINES, `-I${headers}`, `-I${xxhash}`, ...LINK]
  const napi = readdirSync(headers).sort()
  return buildOnce({
    name: 'lifeboat.node',
    stampName: 'lifeboat.stamp',
    words: [compilerSays(['-dumpfullversion', '-dumpversion']), ...flags],
    depends: [...files, ...napi.map(name => join(headers, name)), join(xxhash, 'xxhash.h'), zstd],
    make: fresh => compilerSays([...flags, '-o', fresh, ...sources, zstd]),
    force,
  })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) report('build/lifeboat.node', buildAddon)
