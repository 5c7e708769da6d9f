/** The frozen views over NBD on a Unix socket of our own. A QEMU has one NBD server: where it already runs, it is somebody else's. */
import { LifeboatError } from '../../core/errors.ts'
import type { AbortOptions } from '../../core/scope.ts'
import { exportId } from './freezing-method.ts'
import { asList, type JsonObject, optionalText, textOf } from './json.ts'
import { mark, NBD_MARKER, unmark } from './markers.ts'
import { isQmpError, type QmpClient } from './qmp.ts'

export async function startNbdServer(qmp: QmpClient, socket: string, options: AbortOptions): Promise<void> {
  await mark(qmp, NBD_MARKER)
  try {
    await qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } }, options)
  } catch (error) {
    if (!isQmpError(error)) throw error
    await unmark(qmp, NBD_MARKER)
    if (!/already/.test(error.message)) throw error
    throw new LifeboatError('vm-busy', 'the NBD server of this QEMU is in use by another program', {
      hint: 'A QEMU has one NBD server. Stop the other one (nbd-server-stop, or end the migration or backup that uses it), then try again.',
      cause: error,
    })
  }
}

/** Read-only, under `name`. */
export async function addExport(
  qmp: QmpClient,
  name: string,
  node: string,
  bitmaps: readonly unknown[],
  options: AbortOptions,
): Promise<void> {
  const id = exportId(name)
  const args: JsonObject = {
    type: 'nbd',
    id,
    'node-name': node,
    name,
    writable: false,
    ...(bitmaps.length > 0 && { bitmaps }),
  }
  await qmp.execute('block-export-add', args, options)
}

export async function removeExport(qmp: QmpClient, id: string): Promise<void> {
  await qmp.until(
    ({ event, data }) => event === 'BLOCK_EXPORT_DELETED' && data.id === id,
    () => qmp.execute('block-export-del', { id, mode: 'hard' }),
  )
}

export async function removeOurExports(qmp: QmpClient): Promise<{ readonly others: boolean }> {
  let others = false
  for (const entry of asList(await qmp.execute('query-block-exports'))) {
    const id = textOf(entry, 'id')
    if (id.startsWith('lifeboat-')) await removeExport(qmp, id)
    else if (optionalText(entry, 'type') === 'nbd') others = true
  }
  return { others }
}
