/** What differs between two trees is told once, in order, and nothing else is. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import { type CompareOptions, compareTrees, type TreeChange } from '../../../src/files/compare-trees.ts'
import type { FileTree, TreeNode } from '../../../src/files/file-tree.ts'
import { type Described, directory, file, memoryTree, symlink } from '../../../src/files/memory-tree.ts'

const at = (modifiedNs: bigint) => ({ modifiedNs, changedNs: modifiedNs })

test('added, removed and changed files are told in order, with what is different about them', async () => {
  const before = {
    etc: directory({
      gone: file('x', { inode: 10n }),
      hosts: file('one', { inode: 11n, ...at(1n) }),
      mode: file('m', { inode: 12n, permissions: 0o600, changedNs: 1n }),
      same: file('s', { inode: 13n, ...at(5n) }),
    }),
    old: directory({ deep: directory({ leaf: file('') }) }),
    turned: file(''),
  }
  const after = {
    etc: directory({
      hosts: file('two2', { inode: 11n, ...at(2n) }),
      mode: file('m', { inode: 12n, permissions: 0o644, uid: 7, changedNs: 2n }),
      new: file('y', { inode: 15n }),
      same: file('s', { inode: 13n, ...at(5n) }),
    }),
    turned: directory({ inside: file('') }),
  }
  assert.deepEqual(await changes(before, after), [
    ['removed', '/etc/gone', ''],
    ['changed', '/etc/hosts', 'size modified'],
    ['changed', '/etc/mode', 'mode owner'],
    ['added', '/etc/new', ''],
    ['removed', '/old', ''],
    ['removed', '/old/deep', ''],
    ['removed', '/old/deep/leaf', ''],
    ['changed', '/turned', 'kind'],
    ['added', '/turned/inside', ''],
  ])
})

test('contents of one size and time are compared only where that is asked for', async () => {
  const before = { f: file('aaa', { inode: 1n, ...at(1n) }), l: symlink('one', at(1n)) }
  const after = { f: file('aab', { inode: 1n, ...at(1n) }), l: symlink('two', at(2n)) }
  const link = ['changed', '/l', 'modified target']
  assert.deepEqual(await changes(before, after), [link])
  assert.deepEqual(await changes(before, after, { contents: true }), [['changed', '/f', 'contents'], link])
})

test('extended attributes are compared where a file was touched', async () => {
  const xattrs = (value: string) => new Map([['user.a', Buffer.from(value)]])
  const before = { f: file('a', { inode: 1n, modifiedNs: 1n, changedNs: 1n, xattrs: xattrs('1') }) }
  const after = { f: file('a', { inode: 1n, modifiedNs: 1n, changedNs: 2n, xattrs: xattrs('2') }) }
  assert.deepEqual(await changes(before, after), [['changed', '/f', 'xattrs']])
})

test('a damaged directory is told, and the rest is compared', async () => {
  const tree = { bad: directory({}), good: file('1', at(1n)) }
  const after = { bad: directory({}), good: file('2', at(2n)) }
  const right = memoryTree(after, { tree: 'b' })
  const broken: FileTree = { ...right, root: damaged(right.root, 'bad') }
  const found = await told(compareTrees({ path: '', before: memoryTree(tree).root, after: broken.root }))
  assert.deepEqual(found, [
    ['unread', '/bad', 'broken'],
    ['changed', '/good', 'modified'],
  ])
})

test('a directory that is in itself ends', async () => {
  const root = memoryTree({ a: directory({}) }).root
  const loop: TreeNode = {
    ...root,
    async *list() {
      yield [{ name: 'again', node: loop }]
    },
  }
  const found = await told(compareTrees({ path: '', after: loop }))
  assert.deepEqual(found, [
    ['added', '', ''],
    ['unread', '/again', '/again is a directory that is in itself'],
  ])
})

const changes = (
  before: Readonly<Record<string, Described>>,
  after: Readonly<Record<string, Described>>,
  options: CompareOptions = {},
) => {
  const [a, b] = [memoryTree(before, { tree: 'a' }), memoryTree(after, { tree: 'b' })]
  return told(compareTrees({ path: '', before: a.root, after: b.root }, options))
}

async function told(found: AsyncIterable<TreeChange>): Promise<string[][]> {
  const list: string[][] = []
  for await (const { change, path, what, problem } of found)
    list.push([change, path, problem?.message ?? what.join(' ')])
  return list
}

function damaged(root: FileTree['root'], name: string): FileTree['root'] {
  const harmed = (node: TreeNode): TreeNode =>
    node.kind === 'directory'
      ? {
          ...node,
          // biome-ignore lint/correctness/useYield: it fails before there is anything to give.
          async *list() {
            throw new LifeboatError('guest-filesystem', 'broken')
          },
        }
      : node
  return {
    ...root,
    async *list(options) {
      for await (const batch of root.list(options))
        yield batch.map(entry => (entry.name === name ? { ...entry, node: harmed(entry.node) } : entry))
    },
  }
}
