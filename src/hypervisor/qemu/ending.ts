/** How a capture ends: everything out of QEMU, and the bitmaps turned so that the next increment misses nothing. */
import { isLifeboatError, messageOf } from '../../core/errors.ts'
import type { PointId, RepositoryId } from '../../core/ids.ts'
import { bitmapName } from '../bitmap-name.ts'
import { type BitmapStep, settle, transactionActions } from './bitmaps.ts'
import { queryNodes } from './block-nodes.ts'
import type { Guest } from './instant.ts'
import { removeOurs, removeRunMarkers } from './leftovers.ts'
import type { QmpClient } from './qmp.ts'

export interface Checkpoint {
  readonly repository: RepositoryId
  readonly point: PointId
  /** The disks' own nodes. */
  readonly nodes: readonly string[]
}

/**
 * By what is there, not by what should be: a reply may have been lost. Committed, the new point is the only base that counts
 * here; aborted, none is, and a new bitmap that has no older one beside it belongs to a point that will never exist.
 */
export async function rotateBitmaps(qmp: QmpClient, checkpoint: Checkpoint, committed: boolean): Promise<void> {
  const newer = bitmapName(checkpoint.repository, checkpoint.point)
  const actions = (await queryNodes(qmp))
    .filter(({ name }) => checkpoint.nodes.includes(name))
    .flatMap(({ name, bitmaps }) => {
      if (!bitmaps.some(bitmap => bitmap.name === newer)) return []
      const { steps, survivor } = settle(bitmaps, checkpoint.repository, committed ? [checkpoint.point] : [])
      const orphan: BitmapStep[] = !committed && survivor?.name === newer ? [{ do: 'remove', name: newer }] : []
      return transactionActions(name, false, [...steps, ...orphan])
    })
  if (actions.length > 0) await qmp.execute('transaction', { actions })
}

/** Does all it can and says what it could not: it runs where another error is on its way, or none must be. */
export async function endCapture(guest: Guest, checkpoint: Checkpoint | undefined, committed: boolean): Promise<void> {
  const steps = [
    async () => void (await removeOurs(guest)),
    async () => checkpoint && rotateBitmaps(guest.qmp, checkpoint, committed),
    async () => removeRunMarkers(guest.qmp),
  ]
  for (const step of steps)
    try {
      await step()
    } catch (error) {
      // With the guest, all that we put into it is gone.
      if (guest.qmp.isClosed) return
      guest.log(`cleaning up in QEMU failed; the next backup tries again: ${messageOf(error)}`)
      if (isLifeboatError(error, 'guest-agent-failed')) guest.log(String(error.details.hint))
    }
}
