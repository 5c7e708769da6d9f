import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { type SmallRepository, smallRepository } from '../../doubles/bad-input.ts'

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

  await rotPacks(small)
  assert.equal((await run('verify --all')).code, 4)
  assert.ok((await verifiedAt()).includes(null), 'a harmed point is not shown as verified')
})

test('restore, export and boot say of a point, before they read it, that verify found damage in it', async () => {
  await using small = await smallRepository()
  const run = (words: string) => small.cli.run(`${small.at} ${words}`)
  const verbs = (point: string) => [
    `restore ${point}/vda --output ${small.cli.at('out')} --dry-run`,
    `export ${point}/none --socket ${small.cli.at('nbd')}`,
    `boot ${point} --cpus 0`,
  ]
  for (const words of verbs('web1@latest')) assert.doesNotMatch((await run(words)).stderr, /suspect/)
  await rotPacks(small)
  assert.equal((await run('verify --all')).code, 4)
  const { json } = await small.cli.json(`${small.at} points`)
  const { points } = json as { points: readonly { readonly vm: string; readonly state: string }[] }
  assert.deepEqual(new Set(points.map(({ state }) => state)), new Set(['suspect']))
  for (const words of verbs('web1@latest'))
    assert.match((await run(`--quiet ${words}`)).stderr, /^warning: web1@\w+ is suspect/, words)
})

/** A flipped bit in each data pack. */
async function rotPacks({ repo }: SmallRepository): Promise<void> {
  const packs = (await readdir(path.join(repo, 'packs'), { recursive: true, withFileTypes: true })).filter(entry =>
    entry.isFile(),
  )
  for (const entry of packs) {
    const file = path.join(entry.parentPath, entry.name)
    const bytes = await readFile(file)
    bytes[8]! ^= 1
    await writeFile(file, bytes)
  }
}
