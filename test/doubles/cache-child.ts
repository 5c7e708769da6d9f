/**
 * One of several processes on one disk cache: reads and keeps records until it is killed, or until the given number of steps.
 * Says now and then, and at its end, what it saw.
 */
import { openDiskCache } from '../../src/cache/disk-cache.ts'
import { systemClock } from '../../src/core/clock.ts'
import { systemRandom } from '../../src/core/random.ts'
import { recordNumber, storedNumber } from './kept-record.ts'

export interface CacheChildSaw {
  right: number
  absent: number
  wrong: number
  errors: number
}

const [folder, maxBytes = '0', records = '0', steps = '0'] = process.argv.slice(2)
if (folder !== undefined && import.meta.main) {
  const options = { folder, maxBytes: Number(maxBytes), clock: systemClock, random: systemRandom }
  const cache = await openDiskCache(options)
  if (!cache) throw new Error('no cache')
  await cache.refresh()
  const seen: CacheChildSaw = { right: 0, absent: 0, wrong: 0, errors: 0 }
  process.stdout.write('open\n')
  for (let step = 0; step < Number(steps); step++) {
    const first = Buffer.from(systemRandom(4)).readUInt32BE(0) % Number(records)
    const numbers = Array.from({ length: 8 }, (_, n) => (first + n) % Number(records))
    const found = await cache.read(numbers.map(recordNumber)).catch(() => undefined)
    if (!found) seen.errors++
    for (const [at, bytes] of (found ?? []).entries()) {
      const number = numbers[at]!
      if (!bytes) {
        seen.absent++
        cache.keep(recordNumber(number), storedNumber(number))
      } else seen[Buffer.compare(bytes, storedNumber(number)) === 0 ? 'right' : 'wrong']++
    }
    if (step % 50 === 49) {
      process.stdout.write(`${JSON.stringify(seen)}\n`)
      await cache.refresh()
    }
  }
  await cache[Symbol.asyncDispose]()
  process.stdout.write(`${JSON.stringify(seen)}\n`)
}
