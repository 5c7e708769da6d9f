/** What a person means by a date without a zone. */

/** TZ, else as the host is set. An IANA name. */
export const hostZone = (): string => Intl.DateTimeFormat().resolvedOptions().timeZone

/** The instant of these civil fields in an IANA zone; in the hour that a change of clocks repeats, the later one. */
export function instantIn(zone: string, civil: Date): Date {
  const wanted = civil.getTime()
  // The offset around the instant is one of those of a day before and after it: no zone changes twice in two days.
  const day = 24 * 3_600_000
  const offsets = new Set([-day, 0, day].map(shift => offsetOf(zone, wanted + shift)))
  const exact = [...offsets]
    .map(offset => wanted - offset)
    .filter(instant => instant + offsetOf(zone, instant) === wanted)
  return new Date(exact.length > 0 ? Math.max(...exact) : wanted - offsetOf(zone, wanted))
}

/** Milliseconds that clocks in `zone` are ahead of UTC. */
const offsetOf = (zone: string, instant: number): number => localClock(zone)(instant)

/** The same for many instants: making the formatter is what takes the time. Throws a RangeError for what is no zone. */
export function localClock(zone: string): (instant: number) => number {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  return instant => {
    const parts = format.formatToParts(instant)
    const field = (type: string) => Number(parts.find(part => part.type === type)?.value)
    const local = Date.UTC(
      field('year'),
      field('month') - 1,
      field('day'),
      field('hour'),
      field('minute'),
      field('second'),
    )
    return local - Math.floor(instant / 1000) * 1000
  }
}
