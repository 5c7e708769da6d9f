/** UEFI firmware: where its code lies, and its variables, read whole. */

import { limits } from '../../core/limits.ts'
import type { AbortOptions } from '../../core/scope.ts'
import type { VmDescription } from '../hypervisor.ts'
import type { BlockDevices } from './block-nodes.ts'
import { addExport, removeExport } from './exports.ts'
import { exportId } from './freezing-method.ts'
import type { OpenExport } from './frozen-view.ts'
import type { QmpClient } from './qmp.ts'

/** The NBD server must run. The variables are read until two readings agree: the guest may be writing one. */
export async function describeFirmware(
  qmp: QmpClient,
  flash: BlockDevices['flash'],
  openExport: OpenExport,
  options: AbortOptions,
): Promise<NonNullable<VmDescription['firmware']>> {
  if (flash.length === 0) return { kind: 'bios' }
  const codePath = flash.find(({ readOnly }) => readOnly)?.file
  const variables = flash.find(({ readOnly }) => !readOnly)
  const firmware = { kind: 'uefi' as const, ...(codePath !== undefined && { codePath }) }
  if (!variables) return firmware
  await addExport(qmp, 'firmware', variables.node, [], options)
  try {
    return { ...firmware, variables: await readTwice(openExport, options) }
  } finally {
    await removeExport(qmp, exportId('firmware'))
  }
}

async function readTwice(openExport: OpenExport, options: AbortOptions): Promise<Uint8Array> {
  await using flash = await openExport('firmware', [], options)
  const read = async () => {
    const bytes = new Uint8Array(Math.min(flash.size, limits.firmwareVariablesMax))
    await flash.readInto(bytes, 0, options)
    return bytes
  }
  let before = await read()
  for (let attempt = 0; attempt < 5; attempt++) {
    const now = await read()
    if (Buffer.compare(before, now) === 0) return now
    before = now
  }
  return before
}
