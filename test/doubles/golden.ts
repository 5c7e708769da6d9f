/** Repositories that were made once, opened as a copy: a reader pins what it reads. */
import { createHash } from 'node:crypto'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../src/core/clock.ts'
import { systemRandom } from '../../src/core/random.ts'
import type { Credential } from '../../src/crypto/keys.ts'
import { loadPipeline } from '../../src/native/native.ts'
import { pointImage } from '../../src/repository/image.ts'
import { type OpenedRepository, openRepository } from '../../src/repository/open.ts'
import type { RecoveryPoint } from '../../src/repository/repository.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'

export interface OpenedGolden extends AsyncDisposable {
  readonly repository: OpenedRepository
  /** The folder of the copy. */
  readonly folder: string
}

export async function openGolden(
  golden: string,
  credential: Credential,
  pipeline = loadPipeline(),
): Promise<OpenedGolden> {
  const cleanup = new AsyncDisposableStack()
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-golden-'))
  cleanup.defer(() => rm(folder, { recursive: true, force: true }))
  await cp(golden, folder, { recursive: true })
  const store = cleanup.use(filesystemStore(folder))
  const given = { clock: systemClock, random: systemRandom, host: 'golden', pipeline }
  const repository = cleanup.use(await openRepository({ store, credential, ...given }))
  return { repository, folder, [Symbol.asyncDispose]: () => cleanup.disposeAsync() }
}

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Size and SHA-256 of a disk, every chunk authenticated. */
export async function digestOfDisk(point: RecoveryPoint, disk: string): Promise<{ size: number; sha256: string }> {
  await using image = pointImage(point.disk(disk))
  const bytes = new Uint8Array(image.size)
  await image.readInto(bytes, 0)
  return { size: image.size, sha256: sha256Of(bytes) }
}
