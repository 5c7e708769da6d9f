/** Socket paths for the servers of one file of tests, in a folder that goes with its tests. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'

export async function freshSockets(): Promise<{ readonly folder: string; freshSocket(): string }> {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-nbd-'))
  after(() => rm(folder, { recursive: true, force: true }))
  let count = 0
  return { folder, freshSocket: () => join(folder, `${++count}.sock`) }
}
