/**
 * One capture of a running QEMU guest, from the connection to its end.
 *
 * Whatever is put into QEMU bears our prefix and is taken out by looking at what is there (leftovers.ts), so that the end of
 * a capture, its failure at any step, and the clean-up after a kill are the same code.
 */
import { rm } from 'node:fs/promises'
import { isLifeboatError, LifeboatError, messageOf } from '../../core/errors.ts'
import type { AbortOptions } from '../../core/scope.ts'
import type { Capture, CapturedDisk, CaptureRequest } from '../hypervisor.ts'
import { bitmapContext, changesByBitmap, type NbdReader } from '../nbd-reader.ts'
import { busy, isAlive, lockRun, readLock, runnerText, thisRunner } from '../run-lock.ts'
import { watchJobs } from './blockdev-backup.ts'
import { Breakage } from './breakage.ts'
import { guardByProcess } from './capture-guard.ts'
import { describeMachine } from './description.ts'
import { endCapture, rotateBitmaps } from './ending.ts'
import { addExport, removeOurExports, startNbdServer } from './exports.ts'
import { describeFirmware } from './firmware.ts'
import {
  checkRoom,
  createImage,
  type FleecingFolder,
  fleecingFolder,
  isFleecingImage,
  makeFolder,
  removeFolder,
} from './fleecing.ts'
import type { FrozenDisk } from './freezing-method.ts'
import { type OpenExport, openExportsOn, watchedView } from './frozen-view.ts'
import { guestAgent } from './guest-agent.ts'
import type { Guest } from './instant.ts'
import { refuseWhileCaptured, removeOurs, removeRunMarkers } from './leftovers.ts'
import { mark, RUN_MARKER } from './markers.ts'
import type { QemuSettings } from './qemu-hypervisor.ts'
import { connectQmp, type QmpClient } from './qmp.ts'
import { type SelectedDisk, selectDisks } from './selection.ts'
import { type SwitchedOver, switchOver } from './switch-over.ts'

type Disk = SelectedDisk & FrozenDisk

export async function captureVm(settings: QemuSettings, request: CaptureRequest): Promise<Capture> {
  const what = `the machine at ${settings.qmp}`
  const folder = await fleecingFolder(request.fleecingDir, settings.qmp)
  const ending = new AsyncDisposableStack()
  let committed = false
  try {
    ending.use(await lockRun(folder.lockFile, what, settings.random))
    const qmp = ending.use(await connect(settings, folder, what, request))
    refuseOldQemu(qmp)
    const guest = guestOf(settings, qmp)
    await cleanUpAfterKilled(guest, what)
    const runner = runnerText(await thisRunner())
    await mark(qmp, RUN_MARKER + runner)
    const { guard = guardByProcess, log = () => {} } = settings
    ending.use(guard({ qmp: settings.qmp, guestAgent: settings.guestAgent, runner }, log))
    ending.defer(() => removeFolder(folder))
    let checkpoint:
      | { repository: CaptureRequest['repository']; point: CaptureRequest['point']; nodes: string[] }
      | undefined
    ending.defer(() => endCapture(guest, checkpoint, committed))

    const machine = await describeMachine(qmp)
    const { disks: selected, omitted, flash } = await selectDisks(qmp, request, machine.passThrough)
    const disks = selected.map(disk => ({ ...disk, image: folder.image(disk.index) }))
    const room = await makeImages(settings, folder, disks, request)

    const breakage = new Breakage({ qmp, folder: folder.path })
    checkpoint = { repository: request.repository, point: request.point, nodes: disks.map(({ disk }) => disk.node) }
    const frozen = await switchOver({ guest, clock: settings.clock, request, disks, choice: settings.method ?? 'auto' })

    if (frozen.method.name === 'blockdev-backup')
      ending.use(watchJobs({ guest, folder: folder.path, lowRoom: room / 4, breakage }))

    await startNbdServer(qmp, folder.socket, request)
    const openExport = openExportsOn(folder.socket, settings.clock)
    const captured: CapturedDisk[] = []
    for (const disk of disks) {
      const view = await openView(qmp, openExport, disk, frozen, request)
      ending.use(view)
      captured.push(await capturedDisk(disk, view, breakage, request))
    }
    const firmware = await describeFirmware(qmp, flash, openExport, request)
    const { point, repository } = request
    return {
      vm: { ...machine.vm, firmware },
      consistency: frozen.consistency,
      takenAt: frozen.takenAt,
      disks: captured,
      omitted,
      broken: breakage.broken,
      async committed() {
        committed = true
        // Should any of this fail, both bitmaps stay, and the next capture finds the point in the repository and knows.
        try {
          for (const { image } of captured) await image[Symbol.asyncDispose]()
          await removeOurExports(qmp)
          await rotateBitmaps(qmp, { point, repository, nodes: disks.map(({ disk }) => disk.node) }, true)
        } catch (error) {
          settings.log?.(`the older bitmap stays until the next backup: ${messageOf(error)}`)
        }
      },
      [Symbol.asyncDispose]: () => ending.disposeAsync(),
    }
  } catch (error) {
    await ending.disposeAsync()
    throw error
  }
}

const guestOf = ({ guestAgent: socket, clock, random, log = () => {} }: QemuSettings, qmp: QmpClient): Guest => ({
  qmp,
  clock,
  log,
  ...(socket !== undefined && { agent: guestAgent({ socket, clock, random }) }),
})

/** A socket that does not greet is held by another client; when that is a backup, its lock says whose. */
async function connect(
  { qmp: socket, clock, trace, greetingTimeoutMs }: QemuSettings,
  folder: FleecingFolder,
  what: string,
  { signal }: AbortOptions,
): Promise<QmpClient> {
  try {
    return await connectQmp({ socket, clock, trace, greetingTimeoutMs, signal })
  } catch (error) {
    const holder =
      isLifeboatError(error, 'qmp-unreachable') && error.details.held ? await readLock(folder.lockFile) : undefined
    if (holder && holder.pid !== process.pid && (await isAlive(holder))) throw busy(what, holder)
    throw error
  }
}

/** 5.2 has exports with ids, the least that a clean end needs. */
function refuseOldQemu({ version: { major, minor } }: QmpClient): void {
  if (major > 5 || (major === 5 && minor >= 2)) return
  throw new LifeboatError('qmp-failed', `QEMU ${major}.${minor} is too old for a capture`, {
    hint: 'Lifeboat needs QEMU 5.2 or newer, and 7.1 for a capture that can never stop the guest. Or stop the machine and use --image.',
  })
}

async function cleanUpAfterKilled(guest: Guest, what: string): Promise<void> {
  await refuseWhileCaptured(guest.qmp, what)
  const images = await removeOurs(guest)
  for (const image of images) if (isFleecingImage(image)) await rm(image, { force: true })
  await removeRunMarkers(guest.qmp)
}

async function makeImages(
  { qmp, fleecingFreeMin }: QemuSettings,
  folder: FleecingFolder,
  disks: readonly Disk[],
  options: AbortOptions,
): Promise<number> {
  const owner = await makeFolder(folder, qmp)
  const sizes = disks.map(({ disk }) => disk.size)
  const room = await checkRoom(folder, sizes, fleecingFreeMin)
  for (const { image, disk } of disks) await createImage(image, disk.size, owner, options)
  return room
}

async function openView(
  qmp: QmpClient,
  openExport: OpenExport,
  disk: Disk,
  { method }: SwitchedOver,
  options: AbortOptions,
): Promise<NbdReader> {
  const { change } = disk
  const name = `disk${disk.index}`
  const bitmaps = change.kind === 'incremental' ? [change.bitmap] : []
  await addExport(
    qmp,
    name,
    method.viewOf(disk),
    bitmaps.map(bitmap => method.bitmapRef(disk, bitmap)),
    options,
  )
  return openExport(name, bitmaps.map(bitmapContext), options)
}

async function capturedDisk(
  disk: Disk,
  view: NbdReader,
  breakage: Breakage,
  options: AbortOptions,
): Promise<CapturedDisk> {
  const { change, description } = disk
  const image = watchedView(view, error => breakage.explain(error))
  if (change.kind === 'full') return { description, image, changes: change }
  return { description, image, ...(await changesByBitmap(view, change, options)) }
}
