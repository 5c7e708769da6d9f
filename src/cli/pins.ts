import type { SeenPin } from '../maintenance/pinned-points.ts'
import { formatSeconds } from './units.ts'

/** 'pins/1f3a... (export on host9, 9 d old)' */
export function describePin({ key, kind, host, modifiedAt }: SeenPin, storeNow: Date): string {
  const age = formatSeconds((storeNow.getTime() - modifiedAt.getTime()) / 1000)
  return `${key} (${kind}${host ? ` on ${host}` : ''}, ${age} old)`
}
