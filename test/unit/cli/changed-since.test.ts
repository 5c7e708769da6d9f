import assert from 'node:assert/strict'
import { test } from 'node:test'
import { changedSince } from '../../../src/cli/changed-since.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { forgottenKey } from '../../../src/repository/object-keys.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

test('both points are pinned while they are compared and no longer; one that is forgotten is an error, never a difference', async () => {
  const fixture = await repositoryFixture()
  const size = 400 * 4096
  const writes = Array.from({ length: 400 }, (_, n) => [n * 4096, noise(`old ${n}`, 4096)] as const)
  const older = await fixture.writePoint({ disks: [{ name: 'vda', size, writes }] })
  const changed = [[4096 * 7, noise('new', 4096)]] as const
  const newer = await fixture.writePoint({ base: older.id, disks: [{ name: 'vda', size, writes: changed }] })

  const pinned = { nodesRead: 0, fewest: 9 }
  const pins = async () => (await Array.fromAsync(fixture.store.list('pins/'))).length
  const before = async ({ verb, key }: { verb: string; key: string }) => {
    if (verb !== 'get' || !key.startsWith('meta/')) return
    pinned.nodesRead++
    pinned.fewest = Math.min(pinned.fewest, await pins())
  }
  const repository = await fixture.open(intercepted(fixture.store, { before }))
  const difference = changedSince(repository, 'web')
  assert.deepEqual(await difference(older.id, newer.id, 'vda'), [{ offset: 4096 * 7, length: 4096 }])
  console.log(`${pinned.nodesRead} reads of nodes, at least ${pinned.fewest} pins during each`)
  assert.ok(pinned.nodesRead > 0)
  assert.deepEqual([pinned.fewest, await pins()], [2, 0])

  const mark = { who: 'a', when: '2026-11-22T10:00:00Z', why: 'a test', manifest: older.key }
  await repository.reading.control.put('forgotten', forgottenKey(older.id), mark)
  await assert.rejects(difference(older.id, newer.id, 'vda'), error => {
    assert.ok(isLifeboatError(error) && error.details.hint, String(error))
    return error.code === 'no-such-point' || error.code === 'point-forgotten'
  })
  assert.equal(await pins(), 0)
})
