import { test } from 'node:test'
import { MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { surviveKills } from '../doubles/killed-caches.ts'

test('30 rounds of five processes on one cache, four of them killed: no wrong byte, no failed read', t =>
  surviveKills(
    t,
    { rounds: 30, processes: 5, maxBytes: 8 * MiB, records: 900, random: seededRandom('more kills') },
    { killed: 100, right: 10_000, absent: 10_000 },
  ))
