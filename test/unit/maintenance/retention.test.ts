/** Retention by the calendar of a time zone: tables where clocks change, and a plain oracle for everything else. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../../src/core/random.ts'
import { isTimeZone, type Period, periodNames } from '../../../src/maintenance/periods.ts'
import {
  describePolicy,
  KEEP_COUNTS,
  keepsAnything,
  type RetentionPolicy,
  retained,
} from '../../../src/maintenance/retention.ts'

const at = (text: string) => ({ takenAt: new Date(text) })

/** Kept instants and their reasons, newest last. */
const kept = (times: readonly string[], policy: RetentionPolicy, zone = 'UTC') =>
  [...retained(times.map(at), policy, zone)]
    .map(([point, reasons]) => [point.takenAt.toISOString().replace('.000Z', 'Z'), ...reasons] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1))

test('the newest of each period is kept, with every reason it has', () => {
  const times = ['2026-11-20T10:00:00Z', '2026-11-20T22:00:00Z', '2026-11-21T08:00:00Z', '2026-11-21T10:00:00Z']
  assert.deepEqual(kept(times, { keepLast: 1, keepDaily: 2, keepYearly: 9 }), [
    ['2026-11-20T22:00:00Z', 'daily 2026-11-20'],
    ['2026-11-21T10:00:00Z', 'last 1', 'daily 2026-11-21', 'yearly 2026'],
  ])
  assert.deepEqual(kept(times, { keepLast: 2, keepHourly: 1 }), [
    ['2026-11-21T08:00:00Z', 'last 2'],
    ['2026-11-21T10:00:00Z', 'last 1', 'hourly 2026-11-21T10+00:00'],
  ])
  assert.deepEqual(kept(times, { keepLast: 0 }), [])
  assert.deepEqual(kept([], { keepLast: 3, keepDaily: 3 }), [])
})

test('only periods that have a point count: a VM that was off keeps what it has', () => {
  const times = ['2024-02-29T12:00:00Z', '2025-07-01T12:00:00Z', '2026-11-21T12:00:00Z']
  assert.deepEqual(
    kept(times, { keepDaily: 3 }).map(([time]) => time),
    times,
  )
})

test('the zone of the policy goes before that of the host', () => {
  const times = ['2026-11-20T22:30:00Z', '2026-11-20T23:30:00Z']
  assert.equal(kept(times, { keepDaily: 9 }, 'UTC').length, 1)
  assert.equal(kept(times, { keepDaily: 9 }, 'Europe/Berlin').length, 2)
  assert.equal(kept(times, { keepDaily: 9, timeZone: 'UTC' }, 'Europe/Berlin').length, 1)
})

/** [zone, period, instants and the period's name]. */
const tables: readonly (readonly [string, Period, readonly (readonly [string, string])[]])[] = [
  [
    'Europe/Berlin',
    'hourly',
    [
      ['2026-03-29T00:59:59Z', '2026-03-29T01+01:00'],
      ['2026-03-29T01:00:00Z', '2026-03-29T03+02:00'],
      ['2026-10-25T00:30:00Z', '2026-10-25T02+02:00'],
      ['2026-10-25T01:30:00Z', '2026-10-25T02+01:00'],
      ['2026-10-25T02:00:00Z', '2026-10-25T03+01:00'],
    ],
  ],
  [
    // Days of 23 and of 25 hours.
    'Europe/Berlin',
    'daily',
    [
      ['2026-03-28T22:59:59Z', '2026-03-28'],
      ['2026-03-28T23:00:00Z', '2026-03-29'],
      ['2026-03-29T21:59:59Z', '2026-03-29'],
      ['2026-03-29T22:00:00Z', '2026-03-30'],
      ['2026-10-24T22:00:00Z', '2026-10-25'],
      ['2026-10-25T22:59:59Z', '2026-10-25'],
      ['2026-10-25T23:00:00Z', '2026-10-26'],
    ],
  ],
  [
    'America/New_York',
    'hourly',
    [
      ['2026-03-08T06:59:59Z', '2026-03-08T01-05:00'],
      ['2026-03-08T07:00:00Z', '2026-03-08T03-04:00'],
      ['2026-11-01T05:30:00Z', '2026-11-01T01-04:00'],
      ['2026-11-01T06:30:00Z', '2026-11-01T01-05:00'],
    ],
  ],
  [
    'America/New_York',
    'monthly',
    [
      ['2026-11-01T03:59:59Z', '2026-10'],
      ['2026-11-01T04:00:00Z', '2026-11'],
      ['2026-12-01T04:59:59Z', '2026-11'],
    ],
  ],
  [
    // Half an hour, so that one hour has 30 minutes and another comes half again.
    'Australia/Lord_Howe',
    'hourly',
    [
      ['2026-04-04T14:45:00Z', '2026-04-05T01+11:00'],
      ['2026-04-04T15:00:00Z', '2026-04-05T01+10:30'],
      ['2026-04-04T15:30:00Z', '2026-04-05T02+10:30'],
      ['2026-10-03T15:29:59Z', '2026-10-04T01+10:30'],
      ['2026-10-03T15:30:00Z', '2026-10-04T02+11:00'],
      ['2026-10-03T16:00:00Z', '2026-10-04T03+11:00'],
    ],
  ],
  [
    // 30 December 2011 was left out when the country moved to the other side of the date line.
    'Pacific/Apia',
    'daily',
    [
      ['2011-12-30T09:59:59Z', '2011-12-29'],
      ['2011-12-30T10:00:00Z', '2011-12-31'],
      ['2011-12-31T09:59:59Z', '2011-12-31'],
      ['2011-12-31T10:00:00Z', '2012-01-01'],
    ],
  ],
  [
    'UTC',
    'weekly',
    [
      ['2020-12-31T12:00:00Z', '2020-W53'],
      ['2021-01-03T23:59:59Z', '2020-W53'],
      ['2021-01-04T00:00:00Z', '2021-W01'],
      ['2024-12-29T12:00:00Z', '2024-W52'],
      ['2024-12-30T00:00:00Z', '2025-W01'],
      ['2026-01-01T00:00:00Z', '2026-W01'],
      ['2026-12-31T00:00:00Z', '2026-W53'],
    ],
  ],
  [
    'Asia/Kolkata',
    'yearly',
    [
      ['2026-12-31T18:29:59Z', '2026'],
      ['2026-12-31T18:30:00Z', '2027'],
    ],
  ],
]

for (const [zone, period, rows] of tables)
  test(`${period} in ${zone}`, () => {
    const nameOf = periodNames(zone)
    assert.deepEqual(
      rows.map(([instant]) => [instant, nameOf(period, new Date(instant))]),
      rows,
    )
  })

test('where clocks go back past midnight, the day that comes twice is one day', () => {
  // St. John's: at 00:01 of Sunday, 29 October 2006, it was 23:01 of Saturday again.
  const times = ['2006-10-29T02:00:00Z', '2006-10-29T02:30:30Z', '2006-10-29T03:00:00Z', '2006-10-29T12:00:00Z']
  assert.deepEqual(kept(times, { keepDaily: 9 }, 'America/St_Johns'), [
    ['2006-10-29T03:00:00Z', 'daily 2006-10-28'],
    ['2006-10-29T12:00:00Z', 'daily 2006-10-29'],
  ])
})

/** Groups by names that were made by other means, newest group first. */
function oracle(times: readonly Date[], policy: RetentionPolicy, zone: string): string[] {
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone: zone, dateStyle: 'short', timeStyle: 'medium' })
  const zoned = new Intl.DateTimeFormat('en-GB', { timeZone: zone, timeZoneName: 'longOffset' })
  const dayOf = (time: Date) => format.format(time).slice(0, 10)
  const names: Record<string, (time: Date) => string> = {
    keepLast: time => String(times.indexOf(time)),
    keepHourly: time => `${format.format(time).slice(0, 13)} ${zoned.format(time).split(' ')[1]}`,
    keepDaily: dayOf,
    // Whole weeks since a Monday.
    keepWeekly: time => String(Math.floor((Date.parse(dayOf(time)) / 86_400_000 - 4) / 7)),
    keepMonthly: time => dayOf(time).slice(0, 7),
    keepYearly: time => dayOf(time).slice(0, 4),
  }
  const kept = new Set<number>()
  for (const count of KEEP_COUNTS) {
    const newest = new Map<string, number>()
    for (const [index, time] of times.entries()) newest.set(names[count]!(time), index)
    const groups = [...newest.values()].sort((a, b) => b - a).slice(0, policy[count] ?? 0)
    for (const index of groups) kept.add(index)
  }
  return [...kept].sort((a, b) => a - b).map(index => times[index]!.toISOString())
}

test('random points and policies: the same as the oracle keeps', t => {
  const seed = process.env.SEED ?? 'harvest'
  t.diagnostic(`seed ${seed}`)
  const random = seededRandom(seed)
  const below = (bound: number) => new DataView(random(4).buffer).getUint32(0) % bound
  const zones = ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Pacific/Apia', 'America/St_Johns']
  let removed = 0
  for (let round = 0; round < 150; round++) {
    const zone = zones[below(zones.length)]!
    // Around changes of clocks, years and the day that was left out; spans from hours to years.
    const starts = ['2011-12-28', '2026-03-28', '2026-10-24', '2020-12-25', '2006-10-28', '2026-04-04']
    const start = Date.parse(starts[below(starts.length)]!)
    const span = [7_200_000, 86_400_000, 40 * 86_400_000, 900 * 86_400_000][below(4)]!
    const instants = new Set(Array.from({ length: 1 + below(60) }, () => start + Math.floor(below(span) / 1000) * 1000))
    const times = [...instants].sort((a, b) => a - b).map(ms => new Date(ms))
    const counts = KEEP_COUNTS.map(count => [count, below(3) === 0 ? undefined : below(8)])
    const policy: RetentionPolicy = Object.fromEntries(counts)
    const found = retained(
      times.map(takenAt => ({ takenAt })),
      policy,
      zone,
    )
    const ours = [...found.keys()].map(({ takenAt }) => takenAt.toISOString()).sort()
    assert.deepEqual(ours, oracle(times, policy, zone), `round ${round} ${zone} ${JSON.stringify(policy)}`)
    assert.ok([...found.values()].every(reasons => reasons.length > 0))
    if (keepsAnything(policy)) assert.ok(found.keys().some(({ takenAt }) => takenAt === times.at(-1)))
    removed += times.length - found.size
  }
  assert.ok(removed > 500, `only ${removed} points were left out: the policies are too wide to tell anything`)
})

test('a policy says what it keeps, and whether it keeps anything', () => {
  assert.equal(
    describePolicy({ keepLast: 3, keepDaily: 7, timeZone: 'UTC' }),
    'keep-last 3, keep-daily 7, time zone UTC',
  )
  assert.ok(keepsAnything({ keepLast: 0, keepYearly: 1 }))
  assert.ok(!keepsAnything({ keepLast: 0 }))
  assert.ok(!keepsAnything({ timeZone: 'UTC' }))
})

test('zones are those that the platform knows', () => {
  assert.ok(isTimeZone('Europe/Berlin'))
  for (const bad of ['Europe/Berlim', '', '../etc/passwd']) assert.ok(!isTimeZone(bad), bad)
})
