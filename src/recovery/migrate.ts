/**
 * A booted VM moves into production storage while it runs, after which its session ends: QEMU goes on by itself.
 *
 * What the state file says follows the one question that a crash leaves open: where the newest writes are. Until the phase is
 * 'pivoting' they are in the overlays; from then on only QEMU knows, so a resume that finds QEMU dead starts nothing. The
 * overlays are removed when the targets have been compared with them.
 */
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { type MigratedDisk, migrateDisks, movedDisks } from '../hypervisor/qemu/migrate.ts'
import type { MigrationTarget } from '../hypervisor/qemu/migration-target.ts'
import type { QmpClient } from '../hypervisor/qemu/qmp.ts'
import type { Fields } from './control-protocol.ts'
import type { LiveSession } from './live-session.ts'
import { isBlockDevice, migrateExport } from './migrate-export.ts'
import { openTarget } from './restore-target.ts'
import type { CommandOptions, SessionCommand } from './session-commands.ts'
import type { SessionMigration } from './session-state.ts'

/** `session migrate`: {targets: [{disk?, path, format?}], bytesPerSecond?} gives {disks, warnings}. */
export const migrateCommand: SessionCommand = { isExclusive: true, run: migrateSession }

async function migrateSession(session: LiveSession, request: Fields, options: CommandOptions): Promise<Fields> {
  const { qmp, clock, folder } = session
  const { targets, bytesPerSecond } = parseMigration(session, request)
  if (session.overlays && session.isServing)
    return migrateExport(session, session.overlays, { targets, bytesPerSecond }, options)
  if (!qmp) throw nothingToMove(session)
  for (const { disk, path: file } of targets) await refuseUnfitDevice(session, disk, file)
  const warnings: string[] = []
  const before = session.state().migration
  const setPhase = (phase: SessionMigration['phase']) =>
    session.update(state => ({ ...state, migration: { targets, phase } }))
  if (before?.phase !== 'pivoting') await setPhase('copying')
  const { runDir } = session.state()
  let moved: readonly MigratedDisk[]
  try {
    moved = await migrateDisks({
      guest: { qmp, clock, log: message => warnings.push(message) },
      targets,
      nbdSocket: path.join(runDir ?? folder, 'verify.sock'),
      ...(bytesPerSecond !== undefined && { bytesPerSecond }),
      mayOverwrite: file => before?.targets.some(target => target.path === file) ?? false,
      beforePivot: () => setPhase('pivoting'),
      progress: ({ disk, phase, done, total }) => options.progress({ disk, phase, done, total }),
      signal: options.signal,
    })
  } catch (error) {
    if (isLifeboatError(error, 'migration-differs')) await setPhase('differs')
    // Where QEMU does not say, 'pivoting' stands: it is the truth.
    else if ((await movedDisks(qmp).catch(() => ['unknown'])).length === 0)
      await session.update(({ migration: _, ...state }) => state)
    throw error
  }
  // The overlays are history: what they held has been found on the targets. Whoever discards the session from now on leaves QEMU alone.
  await session.update(state => ({ ...state, state: 'migrated' }))
  await letGo(qmp, session.state().disks.length, warnings)
  for (const { overlay } of session.state().disks) if (overlay) await rm(overlay.path, { force: true })
  await session.end('migrated')
  return {
    disks: targets.map(({ disk, path: to, format }) => ({ name: disk, path: to, format })),
    moved: moved.length,
    warnings,
  }
}

function nothingToMove(session: LiveSession): LifeboatError {
  const { name, serve, point } = session.state()
  if (serve && !serve.writable)
    return new LifeboatError('usage', `session ${name} takes no writes: there is nothing to migrate`, {
      hint: `Restore the point instead: lifeboat restore ${point.vm}@${point.id} --output FOLDER`,
    })
  return new LifeboatError('usage', `session ${name} does not run: only what runs is migrated`, {
    hint: `Resume it first (lifeboat session resume ${name}), or commit it and restore the new point.`,
  })
}

/** QEMU's nodes of overlay and export, as qemu-disks.ts has named them. */
async function letGo(qmp: QmpClient, diskCount: number, warnings: string[]): Promise<void> {
  for (let i = 0; i < diskCount; i++)
    for (const node of [`overlay${i}`, `overlay${i}-file`, `point${i}`])
      await qmp
        .execute('blockdev-del', { 'node-name': node })
        .catch(error => warnings.push(`QEMU keeps ${node}: ${messageOf(error)}`))
}

/** QEMU would write to a device that is mounted, or part of an array. Throws 'usage' and 'output-failed'. */
async function refuseUnfitDevice(session: LiveSession, disk: string, file: string): Promise<void> {
  const size = session.disks.find(({ name }) => name === disk)?.size
  if (size === undefined || !(await isBlockDevice(file))) return
  const target = await openTarget({ output: file, onto: true, random: session.random }, size)
  await target.abandon()
}

/** From another process of this user. A target without a disk is that of the only one. */
function parseMigration(
  session: LiveSession,
  request: Fields,
): { readonly targets: readonly MigrationTarget[]; readonly bytesPerSecond: number | undefined } {
  const { targets, bytesPerSecond } = request
  if (!Array.isArray(targets)) throw unreadable('targets')
  const [only] = session.disks.length === 1 ? session.disks : []
  const taken = new Set<string>()
  return {
    targets: targets.map((target: unknown) => {
      if (typeof target !== 'object' || target === null || !('path' in target) || typeof target.path !== 'string')
        throw unreadable('targets')
      const disk = 'disk' in target && typeof target.disk === 'string' ? target.disk : only?.name
      const format = 'format' in target ? target.format : 'raw'
      if (format !== 'raw' && format !== 'qcow2') throw unreadable('format')
      if (disk === undefined)
        throw new LifeboatError('usage', `session ${session.name} has several disks: which goes to ${target.path}?`, {
          hint: session.disks.map(({ name }) => `--to ${name}=PATH`).join(' '),
        })
      if (taken.has(target.path))
        throw new LifeboatError('usage', `two disks cannot both go to ${target.path}`, {
          hint: 'Name a target of its own for each disk.',
        })
      taken.add(target.path)
      return { disk, path: target.path, format }
    }),
    bytesPerSecond: typeof bytesPerSecond === 'number' && bytesPerSecond > 0 ? bytesPerSecond : undefined,
  }
}

const unreadable = (field: string): LifeboatError =>
  new LifeboatError('usage', `a migration with such '${field}' is not understood`, {
    hint: 'Give each target as [DISK=]PATH[,format=raw|qcow2].',
  })
