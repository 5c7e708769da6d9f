import { test } from 'node:test'
import { MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { surviveKills } from '../doubles/killed-caches.ts'

test('processes that share a cache and are killed in the middle of it never read a wrong byte', t =>
  surviveKills(
    t,
    { rounds: 3, processes: 3, maxBytes: 4 * MiB, records: 400, random: seededRandom('kills') },
    { killed: 3, right: 500, absent: 100 },
  ))
