/** The instant itself: old contents kept from now on, and new bitmaps recording, for all disks at once. */
import type { Clock } from '../../core/clock.ts'
import { bitmapName } from '../bitmap-name.ts'
import type { CaptureRequest } from '../hypervisor.ts'
import { switchSteps, transactionActions } from './bitmaps.ts'
import { blockdevBackup } from './blockdev-backup.ts'
import { copyBeforeWrite } from './copy-before-write.ts'
import type { FreezingMethod, FrozenDisk } from './freezing-method.ts'
import { atOneInstant, type Guest } from './instant.ts'
import { asList } from './json.ts'
import { removeOurs } from './leftovers.ts'
import { isQmpError, type QmpClient } from './qmp.ts'
import type { SelectedDisk } from './selection.ts'

export type MethodChoice = 'auto' | FreezingMethod['name']

/** The ways that this QEMU offers, the best first. */
export async function methodsOf(qmp: QmpClient, choice: MethodChoice): Promise<readonly FreezingMethod[]> {
  if (choice === 'blockdev-backup') return [blockdevBackup]
  if (choice === 'copy-before-write') return [copyBeforeWrite]
  const { major, minor } = qmp.version
  // `on-cbw-error` and `cbw-timeout` came with 7.1; a build may leave the drivers out.
  const knows = (major > 7 || (major === 7 && minor >= 1)) && (await hasDriver(qmp, 'snapshot-access'))
  return knows ? [copyBeforeWrite, blockdevBackup] : [blockdevBackup]
}

async function hasDriver(qmp: QmpClient, driver: string): Promise<boolean> {
  const schema = asList(await qmp.execute('query-qmp-schema'), 'a schema')
  return schema.some(({ values }) => Array.isArray(values) && values.includes(driver) && values.includes('qcow2'))
}

export interface SwitchedOver {
  readonly method: FreezingMethod
  readonly consistency: 'application' | 'filesystem' | 'crash'
  readonly takenAt: Date
}

interface SwitchRequest {
  readonly guest: Guest
  readonly clock: Clock
  readonly request: CaptureRequest
  readonly disks: readonly (SelectedDisk & FrozenDisk)[]
  readonly choice: MethodChoice
}

/** Where wiring refuses the filter (a device whose drive cannot be changed), the other way is taken. */
export async function switchOver(work: SwitchRequest): Promise<SwitchedOver> {
  const methods = await methodsOf(work.guest.qmp, work.choice)
  for (const [index, method] of methods.entries())
    try {
      return await switchOverBy(method, work)
    } catch (error) {
      const wiring = isQmpError(error) && ['qom-set', 'blockdev-add'].includes(String(error.details.command))
      if (!wiring || index === methods.length - 1) throw error
      work.guest.log(`${method.name} is not possible here, taking ${methods[index + 1]?.name}: ${error.message}`)
      await removeOurs(work.guest)
    }
  throw new Error('no way to freeze a disk')
}

async function switchOverBy(method: FreezingMethod, work: SwitchRequest): Promise<SwitchedOver> {
  const { guest, clock, request, disks } = work
  const { qmp } = guest
  const name = bitmapName(request.repository, request.point)
  await method.prepare(qmp, disks, request)
  let takenAt = clock.now()
  const consistency = await atOneInstant(
    guest,
    async options => {
      const freeze = await method.insert(qmp, disks, options)
      const bitmaps = disks.flatMap(({ disk, olderBitmap }) =>
        transactionActions(disk.node, disk.keepsBitmaps, switchSteps(olderBitmap, name)),
      )
      await qmp.execute('transaction', { actions: [...bitmaps, ...freeze] }, options)
      takenAt = clock.now()
    },
    request,
  )
  await method.expose(qmp, disks, request)
  return { method, consistency, takenAt }
}
