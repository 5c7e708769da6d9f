// Builds who parses guests' filesystems, from native/guest into build/: each a program of its own. The agent is static, since it
// runs in an appliance without libraries.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildOnce, compiler, report, root, run } from './native-build.mjs'

const folder = join(root, 'native', 'guest')

const COMPILE = [
  '-std=c++17',
  '-O2',
  '-g1',
  '-fno-exceptions',
  '-fno-rtti',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-D_GNU_SOURCE',
  '-D_FORTIFY_SOURCE=2',
  '-fstack-protector-strong',
]

/** Sources without their ending, and how each is linked. */
const PROGRAMS = {
  'lifeboat-agent': { sources: ['agent', 'mounted', 'paths', 'program', 'server'], link: ['-static', '-s'] },
}

const MISSING =
  "The programs that read guests' filesystems need a C++ compiler: install the Debian package g++ (apt-get install g++)."
const compilerSays = args => run(compiler(), args, { advice: MISSING })

/** Whether any was built. Throws NativeBuildError. */
export function buildGuestPrograms({ force = false } = {}) {
  const headers = readdirSync(folder)
    .filter(name => name.endsWith('.h'))
    .sort()
    .map(name => join(folder, name))
  const version = compilerSays(['-dumpfullversion', '-dumpversion'])
  const built = Object.entries(PROGRAMS).map(([name, { sources, link }]) => {
    const files = sources.map(source => join(folder, `${source}.cc`))
    const flags = [...COMPILE, ...link]
    return buildOnce({
      name,
      stampName: `${name}.stamp`,
      words: [version, ...flags],
      depends: [...files, ...headers],
      // It says in its greeting what it was built from.
      make: (fresh, stamp) =>
        compilerSays([...COMPILE, `-DLIFEBOAT_BUILT="${stamp.slice(0, 16)}"`, '-o', fresh, ...files, ...link]),
      force,
    })
  })
  return built.includes(true)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) report('build/lifeboat-agent', buildGuestPrograms)
