/**
 * Disks of guests for tests: every filesystem and volume layout that Lifeboat opens, made by its own tools in a scratch guest,
 * each holding the reference tree as far as it can. Built once for all, in one guest, and kept.
 */
import { chmodSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { BITLOCKER_PASSPHRASE, bitlockerImage } from './bitlocker-image.ts'
import { type DiskRecipe, LAYOUTS, type Layout, WORKSHOP_SCRIPT } from './guest-layouts.ts'
import { cached, sourceOf } from './recipe-cache.ts'
import { PACKED, referenceTree, windowsTree } from './reference-tree.ts'
import { tarOf } from './tar-of-truth.ts'
import { startWorkshop } from './workshop.ts'

export interface DiskFile {
  readonly name: string
  /** Raw. Never write to it. */
  readonly path: string
}

export interface GuestDisks extends Layout {
  readonly disks: readonly DiskFile[]
}

const MiB = 1024 * 1024
const STEP_TIMEOUT_MS = 600_000
const SOURCES = ['guest-layouts.ts', 'reference-tree.ts', 'tar-of-truth.ts', 'workshop.ts', 'partition-tables.ts']

/** All layouts with their disks. `log` is told how long each step took. */
export async function guestDisks(log: (line: string) => void = () => {}): Promise<readonly GuestDisks[]> {
  const sources = [import.meta.url, ...SOURCES.map(name => new URL(name, import.meta.url).href)].map(sourceOf)
  const folder = await cached('guest-disks', sources, into => build(into, log))
  const made = LAYOUTS.map(layout => ({
    ...layout,
    disks: layout.makes.map(({ name }) => ({ name, path: join(folder, `${name}.raw`) })),
  }))
  return [...made, await bitlocker()]
}

async function build(folder: string, log: (line: string) => void): Promise<void> {
  const recipes = LAYOUTS.flatMap(({ makes }) => makes)
  const disks = recipes.map(({ name }) => ({ name, path: join(folder, `${name}.raw`) }))
  for (const recipe of recipes) await blankDisk(recipe, join(folder, `${recipe.name}.raw`))
  const files = new Map<string, string | Buffer>([
    ['unix.tar', tarOf(referenceTree())],
    ['windows.tar', tarOf(windowsTree())],
    ['packed.bin', PACKED],
    ['make.sh', WORKSHOP_SCRIPT],
  ])
  const vm = await startWorkshop(disks, files)
  try {
    for (const { name } of LAYOUTS.filter(({ script }) => script !== undefined)) {
      const startedAt = performance.now()
      await vm.must(`/make.sh ${name}`, { timeoutMs: STEP_TIMEOUT_MS })
      log(`${name} made in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`)
    }
  } finally {
    // Not asked to go: what is still mounted stays as it is after a power failure.
    await vm.kill()
  }
  for (const { path } of disks) chmodSync(path, 0o444)
}

async function blankDisk(recipe: DiskRecipe, path: string): Promise<void> {
  writeFileSync(path, '')
  truncateSync(path, recipe.sizeMiB * MiB)
  await recipe.table?.(path)
}

const bitlocker = async (): Promise<GuestDisks> => ({
  name: 'bitlocker',
  makes: [],
  disks: [{ name: 'bitlocker', path: await bitlockerImage() }],
  volumes: [{ name: 'bitlocker-whole', type: 'BitLocker', state: 'locked' }],
  key: BITLOCKER_PASSPHRASE,
  unlocked: [{ name: 'bitlocker-whole', type: 'ntfs', state: 'readable' }],
})
