/** R9 with a real export and a real line: the store refuses all connections while a client reads. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { limits, MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import type { NbdClient } from '../../src/nbd/client.ts'
import { exportedPoint } from '../doubles/exported-point.ts'
import { readAtRandom } from '../doubles/timed-readers.ts'

const SIZE = 24 * MiB

for (const { awayMs, retryFor, fails } of [
  { awayMs: 20_000, retryFor: '60s', fails: false },
  { awayMs: 25_000, retryFor: '8s', fails: true },
])
  test(`away for ${awayMs / 1000} s with --retry-for ${retryFor}: ${fails ? 'errors for who waited, then it works' : 'no error'}`, async () => {
    await using point = await exportedPoint(SIZE)
    const { proxy, content } = point
    const reader = (image: NbdClient, reads: number) =>
      readAtRandom({
        image,
        expected: content,
        clock: systemClock,
        random: seededRandom(`${awayMs}`),
        depth: 4,
        reads,
        length: 4096,
        thinkMs: 250,
      })
    const { gets } = await point.serve(`--retry-for ${retryFor} --cache-size 1MiB --disk-cache-size 0`, async guest => {
      const reading = reader(guest, 140)
      await systemClock.sleep(2_000)
      proxy.refuse(true)
      await systemClock.sleep(awayMs)
      proxy.refuse(false)
      const saw = await reading
      const after = await reader(guest, 20)
      const refused = proxy.fired.filter(({ fault }) => fault === 'refuse').length
      const longest = Math.max(...saw.tookMs, ...saw.failures.map(({ tookMs }) => tookMs))
      console.log(
        `${refused} connections refused; ${saw.tookMs.length} reads done, ${saw.failures.length} failed ` +
          `(${[...new Set(saw.failures.map(({ code }) => code))]}), wrong ${saw.wrong}, longest ${longest} ms`,
      )
      assert.ok(refused > 5, 'the outage was met')
      assert.equal(saw.wrong + after.wrong, 0)
      assert.equal(saw.failures.length > 0, fails)
      assert.equal(after.failures.length, 0, 'when the store is back, reads work')
      assert.ok(longest > 5_000, 'somebody waited')
    })
    assert.ok(gets > 100)
  })

test('every GET of 8 in a row brings a byte a second, those that were asked for again as well: reads wait, and are right', async () => {
  await using point = await exportedPoint(SIZE)
  const { fake, content } = point
  const fault = { kind: 'trickle', of: 'body', everyMs: 1_000 } as const
  await point.serve('--cache-size 1MiB --disk-cache-size 0', async guest => {
    fake.faults.add({ operation: 'GetObject', key: /\/packs\//, nth: 5, times: 8, fault })
    const saw = await readAtRandom({
      image: guest,
      expected: content,
      clock: systemClock,
      random: seededRandom('trickle'),
      depth: 4,
      reads: 60,
      length: 4096,
      thinkMs: 10,
    })
    const longest = Math.max(...saw.tookMs)
    console.log(
      `${fake.faults.fired.length} GETs trickled; ${saw.tookMs.length} reads done, ${saw.failures.length} failed (${[...new Set(saw.failures.map(({ code }) => code))]}), wrong ${saw.wrong}, longest ${longest} ms`,
    )
    assert.equal(fake.faults.fired.length, 8)
    assert.deepEqual([saw.wrong, saw.failures.length], [0, 0])
    assert.ok(longest > limits.hedgeUnmeasuredMs, 'somebody waited')
  })
})
