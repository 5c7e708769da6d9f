/**
 * The fallback: a job that copies old contents into an image backed by the disk itself (`sync: none`). It starts in the same
 * transaction as the bitmaps, but a full fleecing disk is reported to the guest as an error of its own write: with the usual
 * `werror` QEMU stops the guest. So it is watched, and undone at once: cancel the job by force, then `cont`.
 */

import { messageOf } from '../../core/errors.ts'
import { limits } from '../../core/limits.ts'
import { OURS } from './block-nodes.ts'
import type { Breakage } from './breakage.ts'
import { freeBytes } from './fleecing.ts'
import { type FreezingMethod, fleeceNode, jobId } from './freezing-method.ts'
import type { Guest } from './instant.ts'
import { asObject, optionalText } from './json.ts'
import { removeOurs } from './leftovers.ts'
import type { QmpEvent } from './qmp.ts'

export const blockdevBackup: FreezingMethod = {
  name: 'blockdev-backup',
  viewOf: ({ index }) => fleeceNode(index),
  // A name alone is looked up from the exported node down its backing chain, in every QEMU.
  bitmapRef: (_disk, name) => name,

  async prepare(qmp, disks, options) {
    for (const { index, disk, image } of disks)
      await qmp.execute(
        'blockdev-add',
        {
          'node-name': fleeceNode(index),
          driver: 'qcow2',
          file: { driver: 'file', filename: image },
          backing: disk.node,
        },
        options,
      )
  },

  async insert(_qmp, disks) {
    return disks.map(({ index, disk }) => ({
      type: 'blockdev-backup',
      data: { 'job-id': jobId(index), device: disk.node, target: fleeceNode(index), sync: 'none' },
    }))
  },

  async expose() {},
}

interface Emergency {
  readonly guest: Guest
  readonly folder: string
  /** Below this many free bytes the job is given up before the guest meets a full disk. */
  readonly lowRoom: number
  readonly breakage: Breakage
}

/** Watches until disposed. In trouble the view goes first, then the job, then the guest runs on: see removeOurs. */
export function watchJobs({ guest, folder, lowRoom, breakage }: Emergency): AsyncDisposable {
  const ended = new AbortController()
  const trouble = Promise.withResolvers<'trouble' | 'ended'>()
  ended.signal.addEventListener('abort', () => trouble.resolve('ended'))
  const stop = guest.qmp.onEvent(event => isTrouble(event) && trouble.resolve('trouble'))
  const already = stoppedAlready(guest).then(stopped => stopped && trouble.resolve('trouble'))
  const room = watchRoom(guest, folder, lowRoom, ended.signal).then(low => low && trouble.resolve('trouble'))

  const watch = trouble.promise.then(async outcome => {
    stop()
    if (outcome === 'ended') return
    breakage.full()
    await removeOurs(guest).catch(error => guest.log(`undoing the copy job failed: ${messageOf(error)}`))
  })
  return {
    async [Symbol.asyncDispose]() {
      ended.abort()
      await Promise.all([watch, room, already])
    },
  }
}

const isTrouble = ({ event, data }: QmpEvent): boolean =>
  (event === 'BLOCK_IO_ERROR' && data.operation === 'write' && data.action !== 'ignore') ||
  (/^BLOCK_JOB_(COMPLETED|ERROR)$/.test(event) && String(data.device ?? '').startsWith(OURS))

/** Between the transaction and the watch nobody listened. */
async function stoppedAlready({ qmp }: Guest): Promise<boolean> {
  const status = await qmp.execute('query-status').catch(() => ({}))
  return optionalText(asObject(status), 'status') === 'io-error'
}

async function watchRoom({ clock }: Guest, folder: string, lowRoom: number, signal: AbortSignal): Promise<boolean> {
  while (!signal.aborted) {
    if ((await freeBytes(folder).catch(() => lowRoom)) < lowRoom) return true
    await clock.sleep(limits.fleecingWatchMs, { signal }).catch(() => undefined)
  }
  return false
}
