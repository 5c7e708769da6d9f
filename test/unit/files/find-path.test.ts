/** A path is walked as its own system would walk it, and never leaves the tree. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findPath } from '../../../src/files/find-path.ts'
import { directory, file, memoryTree, symlink } from '../../../src/files/memory-tree.ts'

const { root } = memoryTree({
  bin: symlink('usr/bin'),
  usr: directory({ bin: directory({ env: file('e'), up: symlink('../../../../../etc') }) }),
  etc: directory({ hosts: file('h'), abs: symlink('/usr/bin/'), loop: symlink('loop'), gone: symlink('/no/where') }),
})

const found = async (path: string) => {
  const place = await findPath(root, path)
  return place.isFound ? place.path : { at: place.parent.path, name: place.name }
}

test('links on the way are followed inside the tree, the last name is what it is', async () => {
  assert.equal(await found('/'), '/')
  assert.equal(await found('/bin'), '/bin')
  assert.equal(await found('/bin/'), '/usr/bin')
  assert.equal(await found('/bin/env'), '/usr/bin/env')
  assert.equal(await found('//usr/./bin/../bin//env'), '/usr/bin/env')
  assert.equal(await found('/etc/abs/env'), '/usr/bin/env')
  assert.equal(await found('/bin/up/hosts'), '/etc/hosts', 'above the root is the root')
  assert.equal(await found('/../../etc/hosts'), '/etc/hosts')
  assert.equal(await found('/etc/loop'), '/etc/loop')
})

test('of a path that is not there the nearest directory is told', async () => {
  assert.deepEqual(await found('/usr/bin/vi'), { at: '/usr/bin', name: 'vi' })
  assert.deepEqual(await found('/usr/lib/x/y'), { at: '/usr', name: 'lib' })
  assert.deepEqual(await found('/etc/hosts/x'), { at: '/etc/hosts', name: 'x' })
  assert.deepEqual(await found('/etc/gone/x'), { at: '/', name: 'no' })
})

test('a loop of links ends', async () => {
  await assert.rejects(findPath(root, '/etc/loop/x'), { code: 'no-such-file', message: /loop/ })
})
