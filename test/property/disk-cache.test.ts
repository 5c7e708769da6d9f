/** The cache on disk against a map: what it gives is what was last kept under that name, or nothing. */
import assert from 'node:assert/strict'
import { mkdtempSync } from 'node:fs'
import { readdir, rm, truncate, unlink, utimes } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { type DiskCache, openDiskCache } from '../../src/cache/disk-cache.ts'
import { limits } from '../../src/core/limits.ts'
import { systemRandom } from '../../src/core/random.ts'
import { recordNumber, storedNumber } from '../doubles/kept-record.ts'
import { manualClock } from '../doubles/manual-clock.ts'

const number = fc.nat({ max: 30 })
const who = fc.nat({ max: 1 })
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('keep' as const), who, from: number, count: fc.nat(12) }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('read' as const), who, from: number, count: fc.nat(12) }) },
  fc.record({ kind: fc.constant('refuse' as const), who, from: number, count: fc.constant(1) }),
  fc.record({ kind: fc.constant('refresh' as const), who, from: number, count: fc.constant(0) }),
  fc.record({ kind: fc.constant('reopen' as const), who, from: number, count: fc.constant(0) }),
  fc.record({ kind: fc.constant('remove a segment' as const), who, from: number, count: fc.constant(0) }),
  fc.record({ kind: fc.constant('cut a segment' as const), who, from: number, count: fc.constant(0) }),
  fc.record({ kind: fc.constant('let time pass' as const), who, from: number, count: fc.constant(0) }),
)

test('two caches on one folder never give anything but what was kept under that name', async () => {
  const seen = { right: 0, absent: 0 }
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 80 }), async steps => {
      const folder = mkdtempSync(path.join(tmpdir(), 'lifeboat-cache-'))
      const clock = manualClock(new Date().toISOString())
      const caches: DiskCache[] = []
      const opened = async () => {
        const cache = await openDiskCache({ folder, maxBytes: 1024 * 1024, clock, random: systemRandom })
        assert.ok(cache)
        await cache.refresh()
        return cache
      }
      try {
        caches.push(await opened(), await opened())
        const kept = new Set<number>()
        for (const { kind, who, from, count } of steps) {
          const cache = caches[who]!
          const numbers = Array.from({ length: count }, (_, n) => from + n)
          if (kind === 'keep')
            for (const n of numbers) {
              cache.keep(recordNumber(n), storedNumber(n))
              kept.add(n)
            }
          if (kind === 'read') {
            if (from % 2) await cache.settled()
            const found = await cache.read(numbers.map(recordNumber))
            for (const [at, bytes] of found.entries()) {
              const n = numbers[at]!
              seen[bytes ? 'right' : 'absent']++
              if (!bytes) continue
              assert.ok(kept.has(n), `${n} was never kept`)
              assert.equal(Buffer.compare(bytes, storedNumber(n)), 0)
            }
          }
          if (kind === 'refuse') cache.refuse(recordNumber(from))
          if (kind === 'refresh') await cache.refresh()
          if (kind === 'let time pass') await clock.advance(limits.diskCacheAttendMs)
          if (kind === 'reopen') {
            await cache[Symbol.asyncDispose]()
            caches[who] = await opened()
          }
          const [name] = (await readdir(folder)).slice(from % 4)
          if (kind === 'remove a segment' && name) await unlink(path.join(folder, name)).catch(() => {})
          if (kind === 'cut a segment' && name) {
            await truncate(path.join(folder, name), from * 4_000).catch(() => {})
            await utimes(path.join(folder, name), new Date(), new Date()).catch(() => {})
          }
        }
      } finally {
        for (const cache of caches) await cache[Symbol.asyncDispose]()
        await rm(folder, { recursive: true, force: true })
      }
    }),
    { numRuns: 80 },
  )
  console.log(`read ${seen.right} times what was kept, ${seen.absent} times nothing`)
  assert.ok(seen.right > 100 && seen.absent > 100)
})
