/** A scratch folder in memory where there is one, so that a measurement of CPU or of a link does not wait for this machine's disk. */
import { mkdtemp, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { GiB } from '../src/core/limits.ts'

const SHM = '/dev/shm'

export async function memoryFolder(): Promise<{ readonly path: string } & AsyncDisposable> {
  const free = await statfs(SHM).then(
    ({ bavail, bsize }) => bavail * bsize,
    () => 0,
  )
  const folder = await mkdtemp(path.join(free > 3 * GiB ? SHM : tmpdir(), 'lifeboat-bench-'))
  return { path: folder, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) }
}
