/** A point that was confirmed and does not count is told by every command that a person looks at, with the command that brings it back. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { leaseId } from '../../../src/core/ids.ts'
import { fenceKey } from '../../../src/repository/object-keys.ts'
import { done, type SmallRepository, smallRepository } from '../../doubles/bad-input.ts'

interface Document {
  readonly points: readonly { readonly id: string }[]
  readonly voids: readonly string[]
  readonly checks: readonly { readonly name: string; readonly status: string; readonly advice?: string }[]
}

describe('a void point', { timeout: 120_000 }, () => {
  let small: SmallRepository
  let command: string
  before(async () => {
    small = await smallRepository()
    const repository = await small.open()
    const point = (await repository.points()).find(({ id }) => id === small.points[1])!
    const { lease } = await repository.manifest(point)
    const fence = { who: 'gc@dead', when: new Date().toISOString(), manifest: point.key }
    await repository.reading.control.put('fence', fenceKey(leaseId(lease), '00000000000000cc'), fence)
    command = `verify --adopt web1@${point.id}`
  })
  after(() => small[Symbol.asyncDispose]())

  const run = (words: string) => small.cli.json(`${small.at} ${words}`)
  const commands = ['points', 'points web1 --all', 'gc --dry-run', 'gc --grace 0s']
  const check = async () =>
    ((await run('doctor')).json as Document).checks.find(({ name }) => name === 'repository-points')

  test('is told by points, gc, backup and doctor', async () => {
    const words = [
      ...commands,
      `backup web1 --image vda=${small.image} --dry-run`,
      `backup web1 --image vda=${small.image}`,
    ]
    for (const each of words) {
      const { stderr } = done(await run(each))
      const warnings = stderr
        .split('\n')
        .filter(line => line.startsWith('warning: ') && line.includes(`\`lifeboat ${command}\``))
      assert.equal(warnings.length, 1, `${each}: ${stderr}`)
    }
    assert.equal(((await run('gc --dry-run')).json as Document).voids.length, 1)
    const found = await check()
    assert.deepEqual([found?.status, found?.advice], ['warn', `lifeboat ${command}`])
  })

  test('is told no more when the command has brought it back', async () => {
    const before = ((await run('points web1')).json as Document).points.length
    done(await run(command))
    for (const each of commands) assert.doesNotMatch(done(await run(each)).stderr, /DOES NOT COUNT/)
    assert.equal((await check())?.status, 'ok')
    assert.equal(((await run('points web1')).json as Document).points.length, before + 1)
  })
})
