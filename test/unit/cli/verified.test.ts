import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { smallRepository } from '../../doubles/bad-input.ts'

interface Listed {
  readonly id: string
  readonly verifiedAt: string | null
}

test('points shows when this host last verified a point whole: never by a sample, and no longer once it is harmed', async () => {
  await using small = await smallRepository()
  const run = (words: string) => small.cli.json(`${small.at} ${words}`)
  const verifiedAt = async () => {
    const { points } = (await run('points')).json as { points: readonly Listed[] }
    return points.map(point => point.verifiedAt)
  }
  assert.ok(
    (await verifiedAt()).every(at => at === null),
    'nothing is claimed before',
  )

  assert.equal((await run('verify --all --sample 5')).code, 0)
  assert.ok(
    (await verifiedAt()).every(at => at === null),
    'a sample proves no point',
  )

  assert.equal((await run('verify --all')).code, 0)
  for (const at of await verifiedAt()) assert.match(at ?? '', /^\d{4}-\d\d-\d\dT/)

  const packs = (await readdir(path.join(small.repo, 'packs'), { recursive: true, withFileTypes: true })).filter(
    entry => entry.isFile(),
  )
  for (const entry of packs) {
    const file = path.join(entry.parentPath, entry.name)
    const bytes = await readFile(file)
    bytes[8]! ^= 1
    await writeFile(file, bytes)
  }
  assert.equal((await run('verify --all')).code, 4)
  assert.ok((await verifiedAt()).includes(null), 'a harmed point is not shown as verified')
})
