/** Which nodes the kernel knows, against a plain count. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { DirectoryNode, TreeNode } from '../../../src/files/file-tree.ts'
import { memoryTree } from '../../../src/files/memory-tree.ts'
import { virtualFile, virtualSymlink } from '../../../src/files/virtual-node.ts'
import { NodeTable } from '../../../src/fuse/node-table.ts'

const root: DirectoryNode = memoryTree({}).root
const fileNode = (tree: string, inode: bigint): TreeNode =>
  virtualFile({ tree, inode, size: 0, allocated: 0, open: () => Promise.reject(new Error('closed')) })

test('a node is known as often as it was told, less what was given back, whatever the order', () => {
  const nodes = ['a', 'b'].flatMap(tree => [0n, 1n, 2n ** 32n, 2n ** 63n].map(inode => fileNode(tree, inode)))
  const step = fc.record({
    node: fc.nat(nodes.length - 1),
    forget: fc.boolean(),
    count: fc.integer({ min: 1, max: 4 }),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      const table = new NodeTable(root)
      const held = nodes.map(() => 0)
      const ids = new Map<number, number>()
      for (const { node, forget, count } of steps) {
        const id = table.idOf(nodes[node]!)
        assert.equal(ids.get(node) ?? id, id)
        ids.set(node, id)
        // The kernel gives back what it was told and no more.
        const times = forget ? Math.min(count, held[node]!) : count
        if (forget) table.forget(id, times)
        else for (let i = 0; i < times; i++) assert.equal(table.hold(nodes[node]!), id)
        held[node] = held[node]! + (forget ? -times : times)
        assert.equal(table.get(id), held[node]! > 0 ? nodes[node] : undefined)
      }
      assert.equal(table.size, 1 + held.filter(times => times > 0).length)
      assert.equal(new Set(ids.values()).size, ids.size)
    }),
    { numRuns: 300 },
  )
})

test('ids are those of a tree and an inode: names share them, trees do not, and all are exact numbers', () => {
  const table = new NodeTable(root)
  const inodes = [0n, 1n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 64n - 1n, -1n]
  const ids = ['a', 'b', 'c'].flatMap(tree => inodes.map(inode => table.idOf(fileNode(tree, inode))))
  assert.equal(new Set(ids).size, ids.length)
  assert.ok(ids.every(id => Number.isSafeInteger(id) && id > 1))
  assert.deepEqual(
    ['a', 'b', 'c'].flatMap(tree => inodes.map(inode => table.idOf(fileNode(tree, inode)))),
    ids,
  )
})

test('the root is never forgotten', () => {
  const table = new NodeTable(root)
  table.forget(1, 1000)
  assert.equal(table.get(1), root)
})

test('a symlink that leads elsewhere is another one, since the kernel keeps where it led', () => {
  const table = new NodeTable(root)
  const link = (changedNs: bigint, isFrozen: boolean) =>
    virtualSymlink({ tree: 't', inode: 3n, target: 'x', changedNs, isFrozen })
  assert.equal(table.idOf(link(1n, false)), table.idOf(link(1n, false)))
  assert.notEqual(table.idOf(link(1n, false)), table.idOf(link(2n, false)))
  assert.equal(table.idOf(link(1n, true)), table.idOf(link(2n, true)))
})
