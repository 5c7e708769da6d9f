/**
 * The program as it is installed: compiled, beside the addon and the packages. In a checkout the launcher runs src/ as it is,
 * and stripping types from it costs each process 0.3 s of CPU and 28 MiB, which no user of the package pays.
 */
import { cp, mkdir, rm, symlink } from 'node:fs/promises'
import path from 'node:path'
import { CACHE } from './images.ts'
import { run } from './tools.ts'

const ROOT = path.join(import.meta.dirname, '..')
const HOME = path.join(CACHE, 'bench', 'installed')

/** What `node` is given. */
export const LIFEBOAT = path.join(HOME, 'bin', 'lifeboat.mjs')

/** Made anew by each run of the benchmarks. */
export async function install(): Promise<void> {
  await rm(HOME, { recursive: true, force: true })
  await mkdir(HOME, { recursive: true })
  const compiler = path.join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc')
  const project = path.join(ROOT, 'tsconfig.build.json')
  await run(process.execPath, [compiler, '-p', project, '--outDir', path.join(HOME, 'dist')])
  for (const part of ['appliance', 'bin', 'build', 'package.json'])
    await cp(path.join(ROOT, part), path.join(HOME, part), { recursive: true })
  await symlink(path.join(ROOT, 'node_modules'), path.join(HOME, 'node_modules'))
}
