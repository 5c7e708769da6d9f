/** What a session says no to, by what its state file knows: each with what to do instead. */
import { LifeboatError } from '../core/errors.ts'
import type { PointSummary } from '../repository/repository.ts'
import type { SessionState } from './session-state.ts'

/** Throws 'usage' or 'session-damaged' with what to do. */
export function refuseUnresumable(state: SessionState, kind: SessionState['kind'], point: PointSummary): void {
  const { name } = state
  const discard = `lifeboat session discard ${name}`
  if (state.state === 'discarding')
    throw new LifeboatError('usage', `session ${name} is being discarded`, { hint: `Finish that: ${discard}` })
  if (state.state === 'migrated')
    throw new LifeboatError('usage', `the VM of session ${name} was migrated, and runs without it`, {
      hint: `Remove what is left of the session: ${discard}`,
    })
  if (state.kind !== kind)
    throw new LifeboatError('usage', `session ${name} was begun with ${state.kind}`, {
      hint: `Go on with it so: lifeboat session resume ${name}`,
    })
  if (state.point.id !== point.id)
    throw new LifeboatError('usage', `session ${name} is one of point ${state.point.id}`, {
      hint: 'Name that point, or another session.',
    })
  if (state.serve === undefined && (state.qemu?.arguments.length ?? 0) === 0)
    throw new LifeboatError(
      'usage',
      `the start of session ${name} was interrupted before there was anything to resume`,
      {
        hint: `Nothing was written to it. Remove it, and start anew: ${discard}`,
      },
    )
}

/** Whether QEMU may be started over the overlays: not where the guest may have gone on elsewhere. Throws 'usage'. */
export function refuseAfterPivot({ name, migration, disks }: SessionState): void {
  if (migration?.phase !== 'pivoting') return
  const targets = migration.targets.map(({ path }) => path).join(' and ')
  const overlays = disks.flatMap(({ overlay }) => overlay?.path ?? []).join(' and ')
  throw new LifeboatError(
    'usage',
    `the VM of session ${name} was just moving to ${targets} when it ended: what it wrote last may be there`,
    {
      details: { object: targets },
      hint: `Start it from there. Should a target not be complete, the state before the move is in ${overlays}. When the VM runs: lifeboat session discard ${name}`,
    },
  )
}

/** A guest that runs may have moved already, as far as the state file knows: it is nobody's to kill by discarding a session. */
export function refuseToEndMoved({ name, migration }: SessionState): void {
  if (migration === undefined || migration.phase === 'copying') return
  const targets = migration.targets.map(({ path }) => path).join(' and ')
  throw new LifeboatError('usage', `the VM of session ${name} may run from ${targets} by now, and would be killed`, {
    details: { object: targets },
    hint: `Finish the move (lifeboat session resume ${name}, then session migrate once more), or switch the VM off first.`,
  })
}
