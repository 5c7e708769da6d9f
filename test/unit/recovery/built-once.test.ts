import assert from 'node:assert/strict'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { builtOnce } from '../../../src/recovery/built-once.ts'

const cacheDir = mkdtempSync(join(tmpdir(), 'built-once-'))
after(() => rmSync(cacheDir, { recursive: true, force: true }))

test('a recipe is built once, also by many at once; another recipe is another result', async () => {
  let builds = 0
  const build = async (folder: string) => {
    builds++
    await new Promise(resolve => setTimeout(resolve, 20))
    writeFileSync(join(folder, 'result'), String(builds))
  }
  const places = await Promise.all(
    Array.from({ length: 4 }, () =>
      builtOnce({ cacheDir, clock: systemClock, name: 'thing', recipe: ['a', 'b'], build }),
    ),
  )
  assert.equal(new Set(places).size, 1)
  assert.equal(builds, 1)
  assert.equal(readFileSync(join(places[0] ?? '', 'result'), 'utf8'), '1')
  const other = await builtOnce({ cacheDir, clock: systemClock, name: 'thing', recipe: ['ab'], build })
  assert.notEqual(other, places[0])
})

test('a build that fails leaves nothing, and the next one begins anew', async () => {
  const request = { cacheDir, clock: systemClock, name: 'broken', recipe: ['x'] }
  const build = async (folder: string) => {
    writeFileSync(join(folder, 'half'), '')
    throw new Error('no network')
  }
  await assert.rejects(builtOnce({ ...request, build }), /no network/)
  assert.deepEqual(
    readdirSync(cacheDir).filter(name => name.startsWith('broken')),
    [],
  )
  const place = await builtOnce({ ...request, build: async () => {} })
  assert.deepEqual(readdirSync(place), [])
})

test('results that nobody asked for in a month go when something new is built', async () => {
  const old = join(cacheDir, `aged-${'0'.repeat(16)}`)
  const foreign = join(cacheDir, 'aged-by-somebody')
  const longAgo = new Date(Date.now() - 31 * 24 * 3_600_000)
  for (const place of [old, foreign]) {
    mkdirSync(place)
    utimesSync(place, longAgo, longAgo)
  }
  await builtOnce({ cacheDir, clock: systemClock, name: 'aged', recipe: ['y'], build: async () => {} })
  assert.ok(!existsSync(old))
  assert.ok(existsSync(foreign))
})
