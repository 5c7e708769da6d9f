/** Where the writes of clients go. */
import { LifeboatError } from '../core/errors.ts'
import type { OpenOverlays } from '../recovery/overlays.ts'

export const openOverlays: OpenOverlays = () =>
  Promise.reject(
    new LifeboatError('usage', 'writable sessions of exports are not there yet', {
      hint: 'to run a VM from a point and keep its writes, use lifeboat boot',
    }),
  )
