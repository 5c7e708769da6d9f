import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import type { DirectoryNode, Entry } from '../../../src/files/file-tree.ts'
import { type Described, directory, file, memoryTree, symlink } from '../../../src/files/memory-tree.ts'
import { virtualDirectory } from '../../../src/files/virtual-node.ts'
import { type WalkOptions, walk } from '../../../src/files/walk.ts'

async function told(node: DirectoryNode, options: WalkOptions = {}): Promise<string[]> {
  const lines: string[] = []
  for await (const event of walk({ path: [], node }, options)) {
    const sign = { entry: '+', left: '-', problem: '!' }[event.kind]
    lines.push(`${sign}${event.path.join('/')}${event.kind === 'problem' ? `: ${event.reason}` : ''}`)
  }
  return lines
}

const sample = {
  b: directory({ y: file('1'), x: directory({ z: symlink('/') }) }),
  a: file('2'),
  c: directory({}),
}

test('a directory comes before what is in it, and is left after, in the order of the lists', async () => {
  const expected = ['+', '+b', '+b/y', '+b/x', '+b/x/z', '-b/x', '-b', '+a', '+c', '-c', '-']
  assert.deepEqual(await told(memoryTree(sample).root), expected)
  assert.deepEqual(await told(memoryTree(sample, { batch: 1 }).root), expected)
})

test('directories that are not entered are not listed', async () => {
  const enters = (path: readonly string[]) => path[0] !== 'b'
  assert.deepEqual(await told(memoryTree(sample).root, { enters }), ['+', '+b', '-b', '+a', '+c', '-c', '-'])
})

/** A directory whose list is whatever is given; each list is counted while it runs. */
function fake(inode: number, entries: () => readonly Entry[] | Promise<readonly Entry[]>): DirectoryNode {
  return virtualDirectory({ tree: 'fake', inode: BigInt(inode), entries: async () => entries() })
}

test('directories are listed ahead of their turn, many at once and not all', async () => {
  let running = 0
  let most = 0
  let listed = 0
  const leaf = (inode: number) =>
    fake(inode, async () => {
      most = Math.max(most, ++running)
      listed += 1
      for (let turns = 0; turns < 50; turns++) await turn()
      running -= 1
      return []
    })
  const root = fake(0, () => Array.from({ length: 300 }, (_, index) => ({ name: `d${index}`, node: leaf(index + 1) })))
  const lines = await told(root)
  assert.deepEqual(
    lines.filter(line => line.startsWith('+d')),
    Array.from({ length: 300 }, (_, index) => `+d${index}`),
  )
  assert.equal(listed, 300)
  assert.ok(most > 8 && most <= limits.walkListsAhead + 1, `${most} at once`)
})

test('where directories have few directories each, those below the next ones are listed ahead too', async () => {
  let inode = 0
  let running = 0
  let most = 0
  const nested = (depth: number): DirectoryNode =>
    fake(++inode, async () => {
      most = Math.max(most, ++running)
      for (let turns = 0; turns < 20; turns++) await turn()
      running -= 1
      return depth === 0 ? [] : [0, 1, 2].map(index => ({ name: `d${index}`, node: nested(depth - 1) }))
    })
  const lines = await told(nested(5))
  assert.equal(lines.filter(line => line.startsWith('+')).length, (3 ** 6 - 1) / 2)
  assert.ok(most > 6 && most <= limits.walkListsRunning + limits.walkListsAhead, `${most} at once`)
})

test('a walk that is given up ends the lists that it began', async () => {
  const signals: AbortSignal[] = []
  const slow = (inode: number) =>
    virtualDirectory({
      tree: 'fake',
      inode: BigInt(inode),
      entries: ({ signal }) => {
        signals.push(signal!)
        return new Promise<Entry[]>((_, reject) => signal!.addEventListener('abort', () => reject(signal!.reason)))
      },
    })
  const root = fake(0, () => [1, 2, 3].map(index => ({ name: `d${index}`, node: slow(index) })))
  for await (const event of walk({ path: [], node: root })) if (event.path.length > 0) break
  assert.ok(signals.length > 0)
  assert.ok(signals.every(signal => signal.aborted))
  const stopped = new AbortController()
  const walking = told(root, { signal: stopped.signal })
  await turn()
  stopped.abort(new Error('stopped'))
  await assert.rejects(walking, /stopped/)
})

test('what a hostile tree holds is told and not followed', async () => {
  const self: DirectoryNode = fake(1, () => [
    { name: 'again', node: fake(2, () => [{ name: 'self', node: self }]) },
    { name: '..', node: self },
    { name: 'a/b', node: self },
    { name: '', node: self },
    { name: 'twice', node: fake(3, () => []) },
    { name: 'twice', node: fake(4, () => []) },
  ])
  assert.deepEqual(await told(self), [
    '+',
    '+again',
    '!again/self: the directory contains itself',
    '-again',
    '!..: this cannot be the name of a file',
    '!a/b: this cannot be the name of a file',
    '!: this cannot be the name of a file',
    '+twice',
    '-twice',
    '!twice: the directory has this name twice',
    '-',
  ])
})

test('depth has an end, also where no directory comes twice', async () => {
  let inode = 0
  const endless = (): DirectoryNode => fake(++inode, () => [{ name: 'd', node: endless() }])
  const lines = await told(endless())
  assert.equal(lines.filter(line => line.startsWith('+')).length, limits.walkDepthMax)
  assert.match(lines.find(line => line.startsWith('!'))!, /directories deep/)
})

test('a damaged directory is told and the rest goes on; a store that is away ends the walk', async () => {
  const failing = (error: Error): DirectoryNode =>
    fake(9, () => {
      throw error
    })
  const rootWith = (node: DirectoryNode) =>
    fake(0, () => [
      { name: 'bad', node },
      { name: 'good', node: memoryTree({ f: file('') } satisfies Record<string, Described>).root },
    ])
  assert.deepEqual(await told(rootWith(failing(new LifeboatError('guest-filesystem', 'bad block')))), [
    '+',
    '+bad',
    '!bad: bad block',
    '-bad',
    '+good',
    '+good/f',
    '-good',
    '-',
  ])
  await assert.rejects(told(rootWith(failing(new LifeboatError('store-unreachable', 'away')))), /away/)
})
