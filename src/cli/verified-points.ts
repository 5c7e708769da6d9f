/**
 * When this host last proved each point readable, whole: what `points` shows as `verifiedAt`. Kept beside the host's state and
 * not in the repository, because a store must not be able to claim that it was checked.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { messageOf } from '../core/errors.ts'
import type { PointId, RepositoryId } from '../core/ids.ts'

const fileOf = (stateDir: string, repository: RepositoryId): string =>
  path.join(stateDir, 'verified', `${repository}.json`)

/** ISO times by point id; empty where nothing was verified, or where that cannot be read: then nothing is claimed. */
export async function verifiedPoints(stateDir: string, repository: RepositoryId): Promise<ReadonlyMap<string, string>> {
  try {
    const document: unknown = JSON.parse(await readFile(fileOf(stateDir, repository), 'utf8'))
    if (typeof document !== 'object' || document === null) return new Map()
    return new Map(Object.entries(document).filter(([, at]) => typeof at === 'string'))
  } catch {
    return new Map()
  }
}

/** `sound` are proven at `now`; of `harmed` nothing is claimed any more. Not being able to remember is a warning, not a failure. */
export async function rememberVerified(
  stateDir: string,
  repository: RepositoryId,
  { sound, harmed, now }: { sound: readonly PointId[]; harmed: readonly PointId[]; now: Date },
  warn: (message: string) => void,
): Promise<void> {
  const verified = new Map(await verifiedPoints(stateDir, repository))
  for (const point of sound) verified.set(point, now.toISOString())
  for (const point of harmed) verified.delete(point)
  const file = fileOf(stateDir, repository)
  try {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 })
    await writeFile(`${file}.${process.pid}`, `${JSON.stringify(Object.fromEntries(verified))}\n`, { mode: 0o600 })
    await rename(`${file}.${process.pid}`, file)
  } catch (error) {
    warn(`that these points were verified could not be noted in ${file}: ${messageOf(error)}`)
  }
}
