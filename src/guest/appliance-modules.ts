/** Modules of a kernel: which need which, read from the modules themselves, so that neither depmod nor modprobe has to be here. */
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'

interface Module {
  readonly name: string
  readonly bytes: Buffer
  readonly needs: readonly string[]
  readonly aliases: readonly string[]
}

export interface KernelModules {
  /** File names and contents, each after those that it needs. */
  readonly files: readonly { readonly name: string; readonly bytes: Buffer }[]
  /** How many of them, from the first on, are those of `atStart` and what they need. */
  readonly startCount: number
  /** For modprobe: modules.dep and modules.alias. */
  readonly dep: string
  readonly alias: string
}

/** Names with dashes and with underscores are the same. */
const plain = (name: string): string => name.replaceAll('-', '_')

/** The modules of these names that the kernel has, with all that they need. What is built in or absent is left out. */
export async function kernelModules(
  folder: string,
  { atStart, onDemand }: { readonly atStart: readonly string[]; readonly onDemand: readonly string[] },
  decompress: (file: string) => Promise<Buffer>,
): Promise<KernelModules> {
  const places = new Map<string, string>()
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const match = /^(.*)\.ko(\.xz|\.zst|\.gz)?$/.exec(entry.name)
    if (entry.isFile() && match) places.set(plain(match[1] ?? ''), path.join(entry.parentPath, entry.name))
  }
  const found = new Map<string, Module>()
  const add = async (name: string): Promise<void> => {
    const place = places.get(name)
    if (place === undefined || found.has(name)) return
    const module = parseModule(name, place.endsWith('.ko') ? await readFile(place) : await decompress(place))
    for (const needed of module.needs) await add(needed)
    found.set(name, module)
  }
  for (const name of atStart) await add(plain(name))
  const startCount = found.size
  for (const name of onDemand) await add(plain(name))
  const modules = [...found.values()]
  const fileOf = (name: string) => `${name}.ko`
  const allNeeds = ({ needs }: Module): string[] =>
    needs.flatMap(name => {
      const module = found.get(name)
      return module ? [fileOf(name), ...allNeeds(module)] : []
    })
  return {
    files: modules.map(({ name, bytes }) => ({ name: fileOf(name), bytes })),
    startCount,
    dep: modules.map(module => `${fileOf(module.name)}: ${lastOfEach(allNeeds(module)).join(' ')}\n`).join(''),
    alias: modules.flatMap(({ name, aliases }) => aliases.map(alias => `alias ${alias} ${name}\n`)).join(''),
  }
}

/** modprobe loads from the last to the first, so what others need has to stand behind all of them. */
const lastOfEach = (names: readonly string[]): string[] => [...new Set([...names].reverse())].reverse()

/** The section .modinfo is texts NAME=VALUE, each ended by a zero byte. */
function parseModule(name: string, bytes: Buffer): Module {
  const text = bytes.toString('latin1')
  const values = (key: string): string[] =>
    [...text.matchAll(new RegExp(`\\0${key}=([\\x21-\\x7e]*)(?=\\0)`, 'g'))].map(match => match[1] ?? '')
  const needs = [...values('depends').flatMap(value => value.split(',')), ...softNeeds(text)]
  return { name, bytes, needs: [...new Set(needs.filter(Boolean).map(plain))], aliases: values('alias') }
}

/** "pre: a b" names what it asks for by itself when it is loaded; without, it may fail. */
const softNeeds = (text: string): string[] =>
  [...text.matchAll(/\0softdep=pre: ([\w\- ]+)/g)].flatMap(match => (match[1] ?? '').split(' '))
