/** From unpacked packages to the files of the appliance's root: programs with the libraries that they need, and drivers. */
import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { mustRun } from '../recovery/external-tool.ts'
import { kernelModules } from './appliance-modules.ts'
import type { ArchiveEntry } from './cpio.ts'
import { elfNeeds } from './elf.ts'

const LIBRARIES = 'lib/x86_64-linux-gnu'

/** busybox under all its names, `programs` in /bin, and `plugins` of OpenSSL. */
export async function programFiles(
  unpacked: string,
  wanted: { readonly programs: readonly string[]; readonly plugins: readonly string[] },
  { signal }: AbortOptions,
): Promise<ArchiveEntry[]> {
  const places = await placesOf(unpacked)
  const entries = new Map<string, ArchiveEntry>()
  const add = async (target: string, name: string): Promise<void> => {
    if (entries.has(target)) return
    const bytes = await readFile(placeIn(places, name))
    entries.set(target, { path: target, kind: 'file', bytes, isProgram: true })
    const { loader, libraries = [] } = elfNeeds(bytes) ?? {}
    if (loader) await add(loader.slice(1), path.basename(loader))
    for (const library of libraries) if (!library.startsWith('ld-linux')) await add(`${LIBRARIES}/${library}`, library)
  }
  for (const name of ['busybox', ...wanted.programs]) await add(`bin/${name}`, name)
  for (const name of wanted.plugins) await add(`usr/${LIBRARIES}/ossl-modules/${name}`, name)
  const applets = await mustRun(placeIn(places, 'busybox'), ['--list'], { signal })
  for (const name of applets.split('\n').filter(Boolean)) {
    const target = `bin/${name}`
    if (!entries.has(target)) entries.set(target, { path: target, kind: 'symlink', target: 'busybox' })
  }
  return [...entries.values()]
}

/** By name: packages keep programs and libraries below / and below /usr. */
async function placesOf(unpacked: string): Promise<ReadonlyMap<string, string>> {
  const places = new Map<string, string>()
  for (const entry of await readdir(unpacked, { recursive: true, withFileTypes: true })) {
    const isOurs = /\/(s?bin|lib|lib64|lib\/x86_64-linux-gnu|ossl-modules)$/.test(entry.parentPath)
    if (isOurs && !entry.isDirectory()) places.set(entry.name, path.join(entry.parentPath, entry.name))
  }
  return places
}

function placeIn(places: ReadonlyMap<string, string>, name: string): string {
  const place = places.get(name)
  if (place !== undefined) return place
  throw new LifeboatError('appliance-unavailable', `the appliance could not be built: no package brought ${name}`, {
    details: { object: name },
    hint: 'It is made of the packages of Debian 12 or 13; look at what `apt-cache policy lvm2` says about where packages come from.',
  })
}

/** Drivers, what modprobe reads about them, and modules.start: those of `atStart` in the order in which they are loaded. */
export async function moduleFiles(
  unpacked: string,
  release: string,
  names: { readonly atStart: readonly string[]; readonly onDemand: readonly string[] },
  options: AbortOptions,
): Promise<ArchiveEntry[]> {
  const decompress = (file: string) => unpackedModule(unpacked, file, options)
  const { files, startCount, dep, alias } = await kernelModules(
    path.join(unpacked, 'lib/modules', release),
    names,
    decompress,
  )
  const start = files.slice(0, startCount).map(({ name }) => `${name}\n`)
  const texts = { 'modules.dep': dep, 'modules.alias': alias, 'modules.builtin': '', 'modules.start': start.join('') }
  return [...files, ...Object.entries(texts).map(([name, text]) => ({ name, bytes: Buffer.from(text) }))].map(
    ({ name, bytes }) => ({ path: `lib/modules/${release}/${name}`, kind: 'file', bytes }),
  )
}

/** Debian 13 compresses modules. */
async function unpackedModule(unpacked: string, file: string, { signal }: AbortOptions): Promise<Buffer> {
  const plain = path.join(unpacked, 'module.ko')
  const places = [path.join(unpacked, 'bin/busybox'), path.join(unpacked, 'usr/bin/busybox')]
  const busybox = (await stat(places[0] ?? '').catch(() => undefined)) ? places[0] : places[1]
  await mustRun('sh', ['-euc', '"$1" xz -dc "$2" > "$3"', 'sh', busybox ?? '', file, plain], { signal })
  return readFile(plain)
}
