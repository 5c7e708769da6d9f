/** Where the sessions of a file of tests are kept, in a folder that goes with its tests, and the commands that sessions have in the product. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after } from 'node:test'
import { backupVm } from '../../src/backup/backup-vm.ts'
import { systemClock } from '../../src/core/clock.ts'
import { systemRandom } from '../../src/core/random.ts'
import { commitCommand } from '../../src/recovery/commit.ts'
import { migrateCommand } from '../../src/recovery/migrate.ts'
import type { SessionPlace } from '../../src/recovery/session.ts'
import { sessionCommands } from '../../src/recovery/session-commands.ts'
import { testExporter } from './nbd-exporter.ts'

export async function sessionPlace(): Promise<{ readonly folder: string; readonly place: SessionPlace }> {
  const folder = await mkdtemp(path.join(tmpdir(), 'lb-'))
  after(() => rm(folder, { recursive: true, force: true }))
  return { folder, place: placeIn(folder) }
}

/** Short names: paths of sockets are bounded. */
export const placeIn = (folder: string): SessionPlace => ({
  stateDir: path.join(folder, 's'),
  runDir: path.join(folder, 'r'),
  clock: systemClock,
  random: systemRandom,
})

/** All ways out of a session. */
export const exitCommands = {
  ...sessionCommands,
  commit: commitCommand({ backup: backupVm, exporter: testExporter }),
  migrate: migrateCommand,
}
