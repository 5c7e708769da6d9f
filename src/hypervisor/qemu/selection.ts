/** Which disks a capture takes, and since when each one's changes are known. */
import { LifeboatError } from '../../core/errors.ts'
import type { CaptureRequest, DiskDescription, OmittedDisk } from '../hypervisor.ts'
import { type ChangeBase, changeBase, type Settlement, settle, transactionActions } from './bitmaps.ts'
import { type AttachedDisk, type BlockDevices, parseBlockDevices } from './block-nodes.ts'
import { describeDisk } from './description.ts'
import type { QmpClient } from './qmp.ts'

export interface SelectedDisk {
  readonly index: number
  readonly disk: AttachedDisk
  readonly description: DiskDescription
  /** Ours from before: disabled by the switch, removed by the commit, enabled again by the abort. */
  readonly olderBitmap?: string
  readonly change: ChangeBase
}

export interface Selection {
  readonly disks: readonly SelectedDisk[]
  readonly omitted: readonly OmittedDisk[]
  readonly flash: BlockDevices['flash']
}

/** Settles what an earlier run left of bitmaps on the disks that are taken. A disk that is not keeps what it has: two at most. */
export async function selectDisks(
  qmp: QmpClient,
  request: CaptureRequest,
  passThrough: readonly OmittedDisk[],
): Promise<Selection> {
  const devices = parseBlockDevices(await qmp.execute('query-block', undefined, request))
  const omitted = [...devices.omitted, ...passThrough]
  const described = []
  for (const disk of devices.disks) {
    const { passThrough: raw, ...description } = await describeDisk(qmp, disk)
    if (raw) omitted.push({ name: disk.name, reason: 'pass-through' })
    else if (request.disks && !request.disks.includes(disk.name))
      omitted.push({ name: disk.name, reason: 'not-selected' })
    else described.push({ disk, description })
  }
  refuseUnknown(request.disks, described, omitted)

  const settled = described.map(entry => ({ ...entry, settlement: settlementOf(entry.disk, request) }))
  const actions = settled.flatMap(({ disk, settlement }) => transactionActions(disk.node, false, settlement.steps))
  if (actions.length > 0) await qmp.execute('transaction', { actions }, request)

  const disks = settled.map(({ disk, description, settlement }, index) => ({
    index,
    disk,
    description,
    ...(settlement.survivor && { olderBitmap: settlement.survivor.name }),
    change: changeBase(disk, settlement, request),
  }))
  return { disks, omitted, flash: devices.flash }
}

const settlementOf = (disk: AttachedDisk, { repository, bases }: CaptureRequest): Settlement =>
  settle(
    disk.bitmaps,
    repository,
    bases.map(({ id }) => id),
  )

function refuseUnknown(
  wanted: readonly string[] | undefined,
  disks: readonly { readonly disk: AttachedDisk }[],
  omitted: readonly OmittedDisk[],
): void {
  const known = disks.map(({ disk }) => disk.name)
  for (const name of wanted ?? []) {
    if (known.includes(name)) continue
    const reason = omitted.find(entry => entry.name === name)?.reason
    throw new LifeboatError(
      'no-such-disk',
      reason ? `disk '${name}' cannot be captured: it is ${reason}` : `the machine has no disk '${name}'`,
      { hint: `It has: ${[...known, ...notSelected(omitted)].join(', ') || 'none that can be captured'}.` },
    )
  }
  if (disks.length === 0)
    throw new LifeboatError('no-such-disk', 'the machine has no disk that can be captured', {
      hint: omitted.map(({ name, reason }) => `${name} is left out: ${reason}`).join('; ') || 'It has no disks at all.',
    })
}

const notSelected = (omitted: readonly OmittedDisk[]): string[] =>
  omitted.filter(({ reason }) => reason === 'not-selected').map(({ name }) => name)
