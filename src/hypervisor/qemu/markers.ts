/**
 * Notes inside QEMU that outlive the process that wrote them: throttle groups without limits, of which only the name counts.
 * They say what a killed run had under way that cannot be seen otherwise.
 */
import { asList, textOf } from './json.ts'
import type { QmpClient } from './qmp.ts'

/** We paused the guest (and froze it, if there is an agent): undo it. A guest that its owner paused is left paused. */
export const HOLD_MARKER = 'lifeboat-hold'
/** We started the NBD server: there is one in a QEMU, and it may be somebody else's. */
export const NBD_MARKER = 'lifeboat-nbd'
/** Followed by who runs the capture. */
export const RUN_MARKER = 'lifeboat-run.'

export async function queryMarkers(qmp: QmpClient): Promise<string[]> {
  const objects = asList(await qmp.execute('qom-list', { path: '/objects' }), 'objects')
  return objects.map(object => textOf(object, 'name')).filter(name => name.startsWith('lifeboat-'))
}

export async function mark(qmp: QmpClient, id: string): Promise<void> {
  await qmp.execute('object-add', { 'qom-type': 'throttle-group', id })
}

export async function unmark(qmp: QmpClient, id: string): Promise<void> {
  await qmp.execute('object-del', { id })
}
