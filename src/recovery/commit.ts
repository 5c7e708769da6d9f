/**
 * A session becomes a new recovery point of its VM: what was written since its point is read at one instant over all disks and
 * stored upon that point, and the session goes on against the new one.
 *
 * It is a backup like any other, so a kill at any step leaves a point that exists or does not. Where the new point exists and
 * the session was not told, it goes on against the old one, whose pin it still has: nothing that it reads or has written changes.
 */
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { bitmapName } from '../hypervisor/bitmap-name.ts'
import type { Hypervisor } from '../hypervisor/hypervisor.ts'
import { imageHypervisor } from '../hypervisor/images.ts'
import { qemuHypervisor } from '../hypervisor/qemu/qemu-hypervisor.ts'
import type { Repository } from '../repository/repository.ts'
import { checkOverlay } from './check-overlay.ts'
import type { Fields } from './control-protocol.ts'
import { described } from './described-capture.ts'
import type { Exporter } from './exporter.ts'
import type { LiveSession } from './live-session.ts'
import { overlayHypervisor } from './overlay-capture.ts'
import type { CommandOptions, SessionCommand } from './session-commands.ts'
import { refuseAfterPivot } from './session-refusals.ts'
import type { SessionState } from './session-state.ts'

/** What a commit asks of the backup path. */
export interface CommitBackup extends AbortOptions {
  readonly vm: string
  readonly hypervisor: Hypervisor
  readonly repository: Repository
  readonly clock: Clock
  readonly random: Random
  readonly kind: 'incremental'
  /** The session's point, however old it is. */
  readonly basedOn: PointId
  readonly fleecingDir: string
  readonly progress: (progress: {
    readonly disk: string
    readonly bytesDone: number
    readonly bytesTotal: number
  }) => void
  readonly alarm: (message: string) => void
}

export interface CommittedPoint {
  readonly point: PointId
  readonly consistency: string
  readonly seconds: number
  readonly disks: readonly { readonly name: string; readonly bytesRead: number; readonly bytesStored: number }[]
}

export interface CommitTools {
  readonly backup: (request: CommitBackup) => Promise<CommittedPoint>
  /** Serves the point below the overlays of a session that nobody serves. */
  readonly exporter: Exporter
}

/** `session commit`: gives what the backup says of the new point, and `warnings`. */
export const commitCommand = (tools: CommitTools): SessionCommand => ({
  isExclusive: true,
  run: (session, _request, options) => commitSession(session, tools, options),
})

async function commitSession(session: LiveSession, tools: CommitTools, options: CommandOptions): Promise<Fields> {
  const { signal, progress } = options
  const { repository, clock, random, folder } = session
  const { vm } = session.state().point
  const { id } = session.point()
  const warnings: string[] = []
  await using source = await sourceOf(session, tools, warning => warnings.push(warning), { signal })
  const result = await tools.backup({
    vm,
    hypervisor: described(source.hypervisor, session.point().manifest),
    repository,
    clock,
    random,
    kind: 'incremental',
    basedOn: id,
    fleecingDir: folder,
    progress: ({ disk, bytesDone, bytesTotal }) => progress({ disk, bytesDone, bytesTotal }),
    alarm: message => warnings.push(message),
    signal,
  })
  // The point exists: from here on nothing is given up.
  const isOn = await succeeds(
    () => goOnAgainst(session, result.point),
    why => warnings.push(`the session still reads point ${id}, which is as good: ${why}`),
  )
  // Not before the session reads the new point: what the overlays let go of is read from it.
  if (isOn)
    await succeeds(
      () => source.settle(),
      why => warnings.push(`the next commit reads again what this one has stored: ${why}`),
    )
  const { point, consistency, seconds, disks } = result
  return { point, consistency, seconds, disks, warnings }
}

async function succeeds(work: () => Promise<void>, otherwise: (why: string) => void): Promise<boolean> {
  try {
    await work()
    return true
  } catch (error) {
    otherwise(messageOf(error))
    return false
  }
}

interface Source extends AsyncDisposable {
  readonly hypervisor: Hypervisor
  /** The session's point now holds what the source showed. */
  settle(): Promise<void>
}

async function sourceOf(
  session: LiveSession,
  { exporter }: CommitTools,
  warn: (message: string) => void,
  options: AbortOptions,
): Promise<Source> {
  const { clock, random, overlays } = session
  const state = session.state()
  if (overlays) {
    if (!session.isServing && overlays.warning !== undefined) warn(overlays.warning)
    const source = overlayHypervisor(session, overlays)
    return {
      hypervisor: source,
      settle: () => source.settle(),
      [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
    }
  }
  const nothing = async () => {}
  if (session.qmp) {
    const { qmp = '', agent } = state.sockets
    const hypervisor = qemuHypervisor({ qmp, guestAgent: agent, clock, random, log: warn })
    return { hypervisor, settle: nothing, [Symbol.asyncDispose]: nothing }
  }
  refuseAfterPivot(state)
  const images = imagesOf(state)
  // What QEMU left when it was killed is looked at before it becomes a point that others trust.
  for (const { path } of images) await checkOverlay(path, options)
  // The overlays' backing images are our exports, which are served for as long as qemu-nbd reads them.
  const exports = session.disks.map(({ name, base }) => ({ name, device: base, readOnly: true }))
  const server = await exporter({ exports, listen: { socket: state.sockets.nbd ?? '' }, ...options })
  const hypervisor = imageHypervisor({ vm: state.point.vm, images, stateDir: session.folder, clock, random, log: warn })
  return { hypervisor, settle: nothing, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

function imagesOf({ name, disks }: SessionState) {
  const images = disks.flatMap(({ name: disk, overlay }) =>
    overlay?.format === 'qcow2' ? [{ name: disk, path: overlay.path, format: 'qcow2' as const }] : [],
  )
  if (images.length > 0 && images.length === disks.length) return images
  throw new LifeboatError('usage', `session ${name} takes no writes: there is nothing to commit`, {
    hint: 'Sessions of boot and of export --writable do.',
  })
}

/** QEMU's bitmaps bear the new point's name since the backup was committed. */
async function goOnAgainst(session: LiveSession, point: PointId): Promise<void> {
  const { repository } = session
  const { vm } = session.state().point
  const summary = (await repository.points({ vm })).find(({ id }) => id === point)
  if (!summary) throw new LifeboatError('no-such-point', `point ${point} is not listed`)
  const bitmap = bitmapName(repository.id, point)
  await session.repin(summary, state => ({
    ...state,
    disks: state.disks.map(disk =>
      disk.overlay?.bitmap === undefined ? disk : { ...disk, overlay: { ...disk.overlay, bitmap } },
    ),
  }))
}
