/** A recovered VM goes on: its server dies and comes back, it becomes a new point, and it moves to local disks, all while it runs. */
import type { GuestConsole } from '../../test/guest/console.ts'
import type { OwnedProcess } from '../../test/guest/process-record.ts'
import { type Checksums, checksums, dropCaches, sameChecksums, writeAfterRecovery } from './guest.ts'
import { type LifeboatCommand, listOf, numberOf, textOf } from './lifeboat-command.ts'
import { mebibytes, seconds } from './narration.ts'

export interface Life {
  readonly lifeboat: LifeboatCommand
  readonly guest: GuestConsole
  /** Serves the session; is killed. */
  readonly server: OwnedProcess
  readonly session: string
  /** A disk's name and where it goes: a raw file, or by its name a qcow2 file. */
  readonly targets: Readonly<Record<string, string>>
  readonly step: (text: string) => void
}

/** `sums`: of the guest's files at the end; `differs` where they changed after the guest had stopped to write. */
export async function lifeAfterRecovery({ lifeboat, guest, server, session, targets, step }: Life): Promise<{
  readonly steps: readonly (readonly string[])[]
  readonly sums: Checksums
  readonly differs: boolean
}> {
  server.child.kill('SIGKILL')
  await server.ended
  step('its server was killed; the guest writes all the same')
  const writing = writeAfterRecovery(guest)
  const resumedAt = performance.now()
  const resumed = await lifeboat.start('session', 'resume', session)
  const resumeSeconds = (performance.now() - resumedAt) / 1000
  await writing
  const before = await checksums(guest)
  step('a new server has taken it over; no read and no write was lost')

  const point = await lifeboat.run('session', 'commit', session)
  const [read, stored] = ['bytesRead', 'bytesStored'].map(field =>
    mebibytes(listOf(point, 'disks').reduce((sum, disk) => sum + numberOf(disk, field), 0)),
  )
  const consistency = textOf(point, 'consistency')
  step(`it is a new recovery point, ${consistency}-consistent: ${read} read, ${stored} stored`)

  const movedAt = performance.now()
  const words = Object.entries(targets).flatMap(([disk, file]) => ['--to', `${disk}=${file}`])
  await lifeboat.run('session', 'migrate', session, ...words)
  const moveSeconds = (performance.now() - movedAt) / 1000
  await resumed.process.ended
  step('it runs from local disks now, compared with what it had; its server is gone')

  await dropCaches(guest)
  const sums = await checksums(guest)
  const differs = !sameChecksums(before, sums)
  step(differs ? 'ITS FILES DIFFER' : 'its files are the ones that it had written')
  return {
    steps: [
      ['a killed server is back', seconds(resumeSeconds), ''],
      [`committed as ${textOf(point, 'point')}`, seconds(numberOf(point, 'seconds')), `${read} read`],
      ['moved to local disks and compared', seconds(moveSeconds), ''],
    ],
    sums,
    differs,
  }
}
