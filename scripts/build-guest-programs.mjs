// Builds who parses guests' filesystems, from native/guest into build/: each a program of its own. The agent is static, since it
// runs in an appliance without libraries; the reader has its libraries in it, so that it starts at once and runs where they are not.
// Where this host has not got them it is not built, and the appliance reads what the reader would.
import { readdirSync, rmSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildOnce, compiler, report, root, run } from './native-build.mjs'

const folder = join(root, 'native', 'guest')

const COMPILE = [
  '-std=c++17',
  '-O2',
  '-g1',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-D_GNU_SOURCE',
  '-D_FORTIFY_SOURCE=2',
  '-fstack-protector-strong',
]

/** Sources without their ending, how each is compiled and linked, and the libraries without which it is left out. */
const PROGRAMS = {
  'lifeboat-agent': {
    sources: ['agent', 'mounted', 'paths', 'program', 'server'],
    compile: ['-fno-exceptions', '-fno-rtti'],
    link: ['-static', '-s'],
    libraries: [],
  },
  'lifeboat-reader': {
    sources: [
      ...[
        'reader',
        'server',
        'sandbox',
        'stopwatch',
        'blocks',
        'directories',
        'filesystem',
        'partitions',
        'probe',
        'views',
        'volumes',
      ],
      ...['ext', 'ext_channel', 'ext_runs', 'fat', 'exfat', 'fat_table', 'fat_times', 'fat_tree'],
      ...['ntfs', 'ntfs_file', 'ntfs_index', 'ntfs_interix', 'ntfs_log', 'ntfs_reparse', 'tsk_image'],
    ],
    compile: ['-fPIE'],
    link: ['-pie', '-s', '-pthread', '-static-libstdc++', '-static-libgcc', '-Wl,--gc-sections,-z,now,-z,relro'],
    libraries: ['libext2fs.a', 'libcom_err.a', 'libtsk.a', 'libz.a'],
  },
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
  const built = Object.entries(PROGRAMS).map(([name, { sources, compile, link, libraries }]) => {
    const archives = libraries.map(library => compilerSays([`-print-file-name=${library}`]).trim())
    if (!archives.every(archive => isAbsolute(archive))) {
      for (const left of [name, `${name}.stamp`]) rmSync(join(root, 'build', left), { force: true })
      return false
    }
    const files = sources.map(source => join(folder, `${source}.cc`))
    const flags = [...COMPILE, ...compile, ...link]
    return buildOnce({
      name,
      stampName: `${name}.stamp`,
      words: [version, ...flags],
      depends: [...files, ...headers, ...archives],
      // It says in its greeting what it was built from.
      make: (fresh, stamp) =>
        compilerSays([
          ...[...COMPILE, ...compile, `-DLIFEBOAT_BUILT="${stamp.slice(0, 16)}"`],
          ...['-o', fresh, ...files, ...link, ...archives],
        ]),
      force,
    })
  })
  return built.includes(true)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) report("who parses guests' filesystems", buildGuestPrograms)
