/** Where the writes of clients go. */

import * as block from '../block/overlay.ts'
import { nodeOverlayFiles } from '../block/overlay-files.ts'
import type { OverlayRecovery } from '../block/overlay-recovery.ts'
import { systemClock } from '../core/clock.ts'
import { hostBootId } from '../recovery/accelerator.ts'
import type { OpenOverlays, OpenOverlaysRequest } from '../recovery/overlays.ts'
import { formatBytes } from './units.ts'

export const openOverlays: OpenOverlays = async request => {
  const overlays = await openHere(request)
  return {
    disk: name => overlays.disk(name),
    freeze: options => overlays.freeze(options),
    warning: recoveryWarning(overlays.recovery),
    [Symbol.asyncDispose]: () => overlays[Symbol.asyncDispose](),
  }
}

export const openHere = async ({
  folder,
  disks,
  durableReplies,
  baseLabel,
}: OpenOverlaysRequest): Promise<block.Overlays> =>
  await block.openOverlays({
    folder,
    disks,
    durableReplies,
    ...(baseLabel !== undefined && { baseLabel }),
    files: nodeOverlayFiles,
    clock: systemClock,
    bootId: await hostBootId(),
  })

const WHY: Readonly<Record<OverlayRecovery['kind'], string>> = {
  none: '',
  crash: 'its server was killed; everything that it had acknowledged is there',
  'power-loss': 'this host went down without closing it',
  'failed-sync': 'the disk below it had failed to store what was flushed',
  damage: 'the end of its journal is damaged or cut off',
}

/** What a person has to know of an overlay that was not closed; undefined where nothing has happened. */
export function recoveryWarning({ kind, lost, lostBytes }: OverlayRecovery): string | undefined {
  if (kind === 'none' || (kind === 'crash' && lostBytes === 0)) return undefined
  const places = Object.entries(lost).map(([name, ranges]) => {
    const first = ranges.slice(0, 3).map(({ offset, length }) => `${offset}+${length}`)
    return `${name} at ${first.join(', ')}${ranges.length > 3 ? ` and ${ranges.length - 3} more places` : ''}`
  })
  const isKnown = kind !== 'damage'
  const what =
    lostBytes > 0
      ? `${isKnown ? '' : 'at least '}${formatBytes(lostBytes)} written after the last flush are lost`
      : isKnown
        ? 'nothing is lost'
        : 'what was written after the last flush may be lost'
  return `the overlay was not closed: ${WHY[kind]}; ${[what, ...places].join(': ')}`
}
