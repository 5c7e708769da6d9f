/** The peer of G8 to G10: restic with a repository in a scratch folder. */
import path from 'node:path'
import { cost } from './process-cost.ts'
import { run } from './tools.ts'

export interface Restic {
  readonly path: string
  readonly environment: Record<string, string>
}

export async function makeRestic(dir: string, name: string): Promise<Restic> {
  const repository = path.join(dir, name)
  const environment = { RESTIC_REPOSITORY: repository, RESTIC_PASSWORD: 'bench' }
  await cost('restic', ['init', '--quiet'], environment)
  return { path: repository, environment }
}

export async function folderBytes(folder: string): Promise<number> {
  const { stdout } = await run('du', ['-sb', '--apparent-size', folder])
  return Number(stdout.split('\t')[0])
}
