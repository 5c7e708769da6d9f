/**
 * The disks of a running guest move to production storage: QEMU mirrors each into its target while the guest runs, and lets
 * the guest's device go over to it (the pivot) when all targets hold what the sources do.
 *
 * Until the first pivot the guest stands where it stood, and a failure, an abort or a kill leaves it there. Writes go to both
 * sides meanwhile, so that the copy converges however busy the guest is. After the pivot source and target are compared: the
 * source stands still then, and a bitmap knows what was written to the target since just before.
 */
import { rm } from 'node:fs/promises'
import { LifeboatError } from '../../core/errors.ts'
import { limits } from '../../core/limits.ts'
import type { AbortOptions } from '../../core/scope.ts'
import { runnerText, thisRunner } from '../run-lock.ts'
import { type AttachedDisk, parseBlockDevices, queryNodes } from './block-nodes.ts'
import { startNbdServer } from './exports.ts'
import type { Guest } from './instant.ts'
import { asList, countOf, isTrue, optionalText, textOf } from './json.ts'
import { refuseWhileCaptured, removeOurs, removeRunMarkers } from './leftovers.ts'
import { mark, RUN_MARKER } from './markers.ts'
import { addTarget, type MigrationTarget, makeTarget, PRODUCTION } from './migration-target.ts'
import { copyBitmaps, type Pivoted, unverifiedSource, verifyCopy, watchTarget } from './migration-verify.ts'
import { isQmpError, type QmpClient, type QmpEvent } from './qmp.ts'

export interface MigrationProgress {
  readonly disk: string
  readonly phase: 'copy' | 'verify'
  /** Bytes. The guest's writes may make the total of a copy grow. */
  readonly done: number
  readonly total: number
}

export interface MigrateRequest extends AbortOptions {
  readonly guest: Guest
  /** One for each disk of the guest that has not moved yet. */
  readonly targets: readonly MigrationTarget[]
  /** Where a Unix socket may be made for the comparison. */
  readonly nbdSocket: string
  /** Of each disk; absent: as fast as it goes. */
  readonly bytesPerSecond?: number
  /** Targets that are there may be overwritten: those that an interrupted migration made. */
  readonly mayOverwrite?: (file: string) => boolean
  readonly progress?: (progress: MigrationProgress) => void
  /** Awaited just before the first disk goes over. */
  readonly beforePivot?: () => Promise<unknown>
}

export interface MigratedDisk {
  readonly name: string
  readonly path: string
  readonly format: string
  readonly size: number
  /** The node that the guest used before, now unused, with all that lies under it. */
  readonly before: string
  readonly node: string
}

interface Move {
  readonly disk: AttachedDisk
  readonly target: MigrationTarget
  readonly job: string
  readonly node: string
  /** Made by us: removed again if the guest does not move there. */
  readonly isNew: boolean
}

/**
 * Resolves when the guest runs from the targets and they have been found to hold what the sources held. Throws 'usage',
 * 'no-such-disk', 'output-exists', 'vm-busy', 'tool-failed' with the guest where it was, and 'migration-differs' with the
 * guest on the targets and the sources untouched.
 */
export async function migrateDisks(request: MigrateRequest): Promise<readonly MigratedDisk[]> {
  const { guest, targets, signal } = request
  const { qmp } = guest
  await refuseWhileCaptured(qmp, 'this machine')
  await removeOurs(guest)
  await removeRunMarkers(qmp)
  await mark(qmp, RUN_MARKER + runnerText(await thisRunner()))
  const moves: Move[] = []
  try {
    // Without the comparison nothing is moved, and QEMU's one NBD server may be taken: that is found out first.
    await startNbdServer(qmp, request.nbdSocket, { signal })
    await removeUnusedTargets(qmp)
    const { disks } = parseBlockDevices(await qmp.execute('query-block'))
    const earlier = movedEarlier(disks, targets)
    for (const [i, wanted] of matched(disks, targets).entries())
      moves.push(await prepare(request, wanted, i, await freeNode(qmp)))
    const failures = watchFailures(qmp)
    for (const move of moves) await startMirror(request, move)
    await untilReady(request, moves, failures)
    const pivoted: Pivoted[] = [...earlier]
    if (moves.length > 0) await request.beforePivot?.()
    for (const move of moves) pivoted.push(await pivot(qmp, move))
    failures.stop()
    for (const one of pivoted)
      await verifyCopy({ qmp, clock: guest.clock, socket: request.nbdSocket, progress: request.progress }, one)
    return pivoted.map(({ disk, node, path, format }) => ({
      ...{ name: disk.name, path, format, size: disk.size },
      ...{ before: disk.node, node },
    }))
  } catch (error) {
    await leaveWhereItWas(request, moves)
    throw error
  } finally {
    await removeOurs(guest)
    await removeRunMarkers(qmp)
    await rm(request.nbdSocket, { force: true })
  }
}

/** Names of the disks that are on a target. Throws where QEMU does not answer. */
export async function movedDisks(qmp: QmpClient): Promise<readonly string[]> {
  const { disks } = parseBlockDevices(await qmp.execute('query-block'))
  return disks.filter(({ node }) => node.startsWith(PRODUCTION)).map(({ name }) => name)
}

/** Disks that a killed run has moved, and whose targets it did not compare any more. */
function movedEarlier(disks: readonly AttachedDisk[], targets: readonly MigrationTarget[]): readonly Pivoted[] {
  return disks.flatMap(disk => {
    const before = unverifiedSource(disk)
    const target = targets.find(({ disk: name }) => name === disk.name)
    if (before === undefined || !target) return []
    return [{ disk: { ...disk, node: before }, node: disk.node, path: target.path, format: target.format }]
  })
}

function matched(
  disks: readonly AttachedDisk[],
  targets: readonly MigrationTarget[],
): readonly { disk: AttachedDisk; target: MigrationTarget }[] {
  for (const { disk } of targets)
    if (!disks.some(({ name }) => name === disk))
      throw new LifeboatError('no-such-disk', `the machine has no disk ${disk} to migrate`, {
        hint: `It has ${disks.map(({ name }) => name).join(', ')}.`,
      })
  const left = disks.filter(({ node }) => !node.startsWith(PRODUCTION))
  return left.map(disk => {
    const mine = targets.filter(target => target.disk === disk.name)
    const [target] = mine
    if (target && mine.length === 1) return { disk, target }
    throw new LifeboatError(
      'usage',
      `disk ${disk.name} has ${mine.length === 0 ? 'no target' : 'several targets'}: all disks move together`,
      { hint: `Name one for each: ${left.map(({ name }) => `--to ${name}=PATH`).join(' ')}` },
    )
  })
}

/** Targets of a run that was killed. One that the guest uses is refused by QEMU, which is the point. */
async function removeUnusedTargets(qmp: QmpClient): Promise<void> {
  for (const { name } of await queryNodes(qmp))
    if (name.startsWith(PRODUCTION)) await qmp.execute('blockdev-del', { 'node-name': name }).catch(() => undefined)
}

async function freeNode(qmp: QmpClient): Promise<string> {
  const taken = new Set((await queryNodes(qmp)).map(({ name }) => name))
  for (let i = 0; ; i++) if (!taken.has(`${PRODUCTION}${i}`)) return `${PRODUCTION}${i}`
}

async function prepare(
  { guest: { qmp }, mayOverwrite = () => false, signal }: MigrateRequest,
  { disk, target }: { disk: AttachedDisk; target: MigrationTarget },
  i: number,
  node: string,
): Promise<Move> {
  const isNew = await makeTarget(target, disk.size, { mayOverwrite, signal })
  const move = { disk, target, job: `lifeboat-migrate-${i}`, node, isNew }
  try {
    await addTarget(qmp, target, node, disk.size, { signal })
    return move
  } catch (error) {
    if (isNew) await rm(target.path, { force: true })
    throw error
  }
}

async function startMirror({ guest: { qmp }, bytesPerSecond, signal }: MigrateRequest, move: Move): Promise<void> {
  const words = {
    'job-id': move.job,
    device: move.disk.node,
    target: move.node,
    sync: 'full',
    'copy-mode': 'write-blocking',
    ...(bytesPerSecond !== undefined && { speed: Math.max(1, Math.floor(bytesPerSecond)) }),
  }
  await qmp.execute('blockdev-mirror', words, { signal }).catch(error => {
    if (!isQmpError(error)) throw error
    const { path } = move.target
    throw new LifeboatError('output-failed', `disk ${move.disk.name} cannot be copied to ${path}: ${error.message}`, {
      details: { object: path },
      hint: 'Another program may be using it. The guest runs on as before: name a target that is free.',
      cause: error,
    })
  })
}

/** What QEMU says of jobs that end while nobody asked them to: the reason comes as an event only. */
function watchFailures(qmp: QmpClient) {
  const reasons = new Map<string, string>()
  const stop = qmp.onEvent(({ event, data }: QmpEvent) => {
    const job = optionalText(data, 'device')
    if (job && /^BLOCK_JOB_(COMPLETED|CANCELLED)$/.test(event) && !reasons.has(job))
      reasons.set(job, optionalText(data, 'error') ?? `QEMU ended the copy (${event})`)
  })
  return { reasons, stop }
}

async function untilReady(
  { guest: { qmp, clock }, progress, signal }: MigrateRequest,
  moves: readonly Move[],
  { reasons }: { readonly reasons: ReadonlyMap<string, string> },
): Promise<void> {
  for (;;) {
    const jobs = asList(await qmp.execute('query-block-jobs', undefined, { signal }))
    let ready = 0
    for (const move of moves) {
      const job = jobs.find(entry => textOf(entry, 'device') === move.job)
      const reason = reasons.get(move.job)
      if (!job || reason !== undefined) throw copyFailed(move, reason)
      if (isTrue(job, 'ready')) ready++
      progress?.({ disk: move.disk.name, phase: 'copy', done: countOf(job, 'offset'), total: countOf(job, 'len') })
    }
    if (ready === moves.length) return
    await clock.sleep(limits.migrationPollMs, { signal })
  }
}

const copyFailed = ({ disk, target }: Move, reason: string | undefined): LifeboatError =>
  new LifeboatError(
    'tool-failed',
    `disk ${disk.name} could not be copied to ${target.path}: ${reason ?? 'no reason'}`,
    {
      details: { object: target.path },
      hint: 'The guest runs on as before. Put right what is wrong with the target, and migrate again.',
    },
  )

/** From the first of these on there is no way back: no signal is passed. */
async function pivot(qmp: QmpClient, { disk, target, job, node }: Move): Promise<Pivoted> {
  await watchTarget(qmp, node, disk.node)
  const bitmaps = await copyBitmaps(qmp, disk, node, target.format)
  const ended = await qmp.until(
    ({ event, data }) => /^BLOCK_JOB_(COMPLETED|CANCELLED)$/.test(event) && data.device === job,
    () => qmp.execute('block-job-complete', { device: job }),
    { timeoutMs: limits.migrationPivotMs },
  )
  const error = optionalText(ended.data, 'error')
  if (error !== undefined || ended.event !== 'BLOCK_JOB_COMPLETED')
    throw copyFailed({ disk, target, job, node, isNew: false }, error ?? 'it was cancelled')
  await bitmaps.merge()
  return { disk, node, path: target.path, format: target.format }
}

/** Jobs and targets go. A disk that has pivoted already stays on its target, whose file is then kept: QEMU does not let go of it. */
async function leaveWhereItWas({ guest }: MigrateRequest, moves: readonly Move[]): Promise<void> {
  if (guest.qmp.isClosed) return
  await removeOurs(guest)
  for (const { node, isNew, target } of moves) {
    const gone = await guest.qmp.execute('blockdev-del', { 'node-name': node }).then(
      () => true,
      () => false,
    )
    if (gone && isNew) await rm(target.path, { force: true })
  }
}
