/** A time as people write it: of this host's clock, or how long ago. */
import { LifeboatError } from '../core/errors.ts'
import { hostZone, instantIn } from '../repository/local-time.ts'
import { parseDurationMs } from './units.ts'

/** '2026-11-21', '2026-11-21T10:00', with Z in UTC, '7d'. `flag`: whose value it is, for the message. */
export function parseSince(text: string, now: Date, flag: string): Date {
  const civil = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?))?(Z)?$/.exec(text)
  if (!civil) return new Date(now.getTime() - parseDurationMs(text, flag))
  const [, date = '', clock = '00:00', utc] = civil
  const fields = new Date(`${date}T${clock}Z`)
  if (Number.isNaN(fields.getTime()) || !fields.toISOString().startsWith(date))
    throw new LifeboatError('usage', `${flag} '${text}' names a time that does not exist`, {
      hint: 'write it as 2026-11-21T10:00',
    })
  return utc ? fields : instantIn(hostZone(), fields)
}
