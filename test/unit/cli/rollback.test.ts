/** This host remembers which points it has seen: what vanishes without having been forgotten raises an alarm. */
import assert from 'node:assert/strict'
import { cp, readdir, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { systemRandom } from '../../../src/core/random.ts'
import { sealManifest } from '../../../src/repository/stored-manifest.ts'
import { done, type SmallRepository, smallRepository } from '../../doubles/bad-input.ts'

interface Problem {
  readonly object: string
  readonly kind: string
  readonly points: readonly string[]
}

describe('rollback', { timeout: 120_000 }, () => {
  let small: SmallRepository
  before(async () => {
    small = await smallRepository()
  })
  after(() => small[Symbol.asyncDispose]())
  beforeEach(() => small.reset())

  const run = (words: string) => small.cli.json(`${small.at} ${words}`)
  const manifests = async () => {
    const names = await readdir(path.join(small.repo, 'points', 'web1'))
    return names.sort().map(name => `points/web1/${name}`)
  }
  async function alarms(flags = ''): Promise<readonly Problem[]> {
    const { code, json } = await run(`verify --all${flags}`)
    const { problems } = json as { problems: readonly Problem[] }
    assert.equal(code, problems.length === 0 ? 0 : 4)
    return problems
  }
  const warned = async (words: string) => /^warning: rolled back: /m.test((await run(words)).stderr)

  test('the newest point is removed: tables and backups warn, verify fails, until somebody accepts the loss', async () => {
    const [, newest = ''] = await manifests()
    await rm(path.join(small.repo, newest))
    assert.ok(await warned('points'))
    assert.ok(await warned('points web1'))
    assert.ok(!(await warned('points other')), 'another VM has lost nothing')
    assert.ok(await warned(`restore web1@latest/vda --force --output ${small.cli.at('out.raw')}`))
    assert.ok(await warned(`backup web1 --image vda=${small.image}`))
    assert.deepEqual(
      (await alarms()).map(({ object, kind, points }) => [object, kind, ...points]),
      [[newest, 'rolled-back', small.points[1]]],
    )
    assert.deepEqual(await alarms(' --accept-loss'), [])
    assert.ok(!(await warned('points')))
    assert.deepEqual(await alarms(), [])
  })

  test('an old copy of the whole repository in its place is noticed at the first listing', async () => {
    const copy = small.cli.at('old')
    await rm(copy, { recursive: true, force: true })
    await cp(small.repo, copy, { recursive: true })
    done(await run(`backup web1 --image vda=${small.image}`))
    await rm(small.repo, { recursive: true })
    await cp(copy, small.repo, { recursive: true })
    assert.ok(await warned('points'), 'though it was never listed, it was made here')
    assert.equal((await alarms())[0]?.kind, 'rolled-back')
  })

  test('what was forgotten may go, whether or not its mark was seen, and a VM with all its points', async () => {
    const [older = '', newest = ''] = await manifests()
    done(await run(`forget web1@${small.points[0]}`))
    await rm(path.join(small.repo, 'forgotten'), { recursive: true })
    await rm(path.join(small.repo, older))
    assert.ok(!(await warned('points')))
    done(await run(`forget web1@${small.points[1]} --last-point`))
    assert.ok(!(await warned('points')), 'its mark is seen')
    await rm(path.join(small.repo, 'forgotten'), { recursive: true })
    await rm(path.join(small.repo, newest))
    await rm(path.join(small.repo, 'audit'), { recursive: true })
    assert.ok(!(await warned('points')), 'and remembered')
    assert.deepEqual(await alarms(), [])
  })

  test('a manifest that was written anew under its name is told from the one that was seen', async () => {
    assert.deepEqual(await alarms(), [])
    await using repository = await small.open()
    const point = (await repository.points()).find(({ id }) => id === small.points[1])
    assert.ok(point)
    const { store } = repository
    const sealer = { store, keys: repository.reading.keyring.repository, random: systemRandom }
    const manifest = await repository.manifest(point)
    await writeFile(path.join(small.repo, point.key), sealManifest(sealer, point.key, manifest))
    assert.deepEqual(
      (await alarms()).map(({ object, kind }) => [object, kind]),
      [[point.key, 'rolled-back']],
    )
  })

  test('a name that somebody plants and removes again raises no alarm', async () => {
    const planted = path.join(small.repo, 'points', 'web1', '20260101T000000Z-00000000000000ff')
    await writeFile(planted, 'x')
    assert.equal((await run('points')).code, 4)
    await rm(planted)
    assert.ok(!(await warned('points')))
    assert.deepEqual(await alarms(), [])
  })
})
