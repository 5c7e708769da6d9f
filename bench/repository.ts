/** A repository in a scratch folder, with its key in the environment of the calls. */
import path from 'node:path'
import type { StoreFigures } from '../src/storage/metered.ts'
import { lifeboat } from './process-cost.ts'

export interface BenchRepository {
  readonly path: string
  readonly environment: Record<string, string>
}

export async function makeRepository(dir: string, name: string): Promise<BenchRepository> {
  const repository = {
    path: path.join(dir, name),
    environment: {
      LIFEBOAT_REPO: path.join(dir, name),
      LIFEBOAT_KEY_FILE: path.join(dir, `${name}.key`),
      LIFEBOAT_STATE_DIR: path.join(dir, `${name}.state`),
    },
  }
  await lifeboat(['init', '--json'], repository.environment)
  return repository
}

export interface BackupDocument {
  readonly point: string
  readonly kind: string
  readonly disks: readonly {
    readonly name: string
    readonly bytesRead: number
    readonly bytesChanged: number
    readonly bytesNew: number
    readonly bytesStored: number
    readonly reason?: string
  }[]
  readonly requests: StoreFigures
}
