/** What every tree of files must do, whatever is behind it. Run by file-tree.test.ts on the trees of this house, and by others on theirs. */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { rangeEnd } from '../../src/core/range.ts'
import { forEachLimited } from '../../src/core/scope.ts'
import type { Attributes, DirectoryNode, Entry, FileNode, FileTree, TreeNode } from '../../src/files/file-tree.ts'
import { type Described, directory, file, sparseFile, special, symlink } from '../../src/files/memory-tree.ts'
import { encodeName } from '../../src/files/name.ts'
import { patternBytes } from '../doubles/pattern.ts'

const NS = 1_000_000_000n
const CONTENT = patternBytes(300_000, 7)
const twoNames = file('one file, two names', { permissions: 0o600, modifiedNs: 1_700_000_000n * NS + 123_456_789n })

/** What a tree has to show for the suite: `make` of each implementation puts it where that reads from. */
export const sampleTree: Readonly<Record<string, Described>> = {
  empty: file('', { permissions: 0o400, modifiedNs: 0n }),
  content: file(CONTENT, { permissions: 0o644, modifiedNs: 1_600_000_000n * NS + 1n }),
  sparse: sparseFile(10 * 1024 * 1024 + 5, [
    { offset: 1024 * 1024, bytes: patternBytes(65_536, 3) },
    { offset: 8 * 1024 * 1024, bytes: patternBytes(4096, 4) },
  ]),
  first: twoNames,
  deep: directory({ down: directory({ second: twoNames }), link: symlink('down/second') }, { permissions: 0o751 }),
  absolute: symlink('/nowhere/at/all'),
  bytes: symlink('\udcff\udcfe/é'),
  pipe: special('fifo', { permissions: 0o640 }),
  'with attributes': file('x', {
    xattrs: new Map([
      ['user.plain', Buffer.from('value')],
      ['user.empty', Buffer.alloc(0)],
    ]),
  }),
  odd: directory({
    '\udcff\udc80': file('not UTF-8'),
    'é日本\u{1f600}': file('UTF-8'),
    ' \n"\\': file('blanks'),
    '-rf': file('dash'),
    '...': directory({}),
    ['n'.repeat(255)]: file('long'),
  }),
}

export interface ContractCase {
  readonly name: string
  /** A tree with `sampleTree` at its root, and `many/` with `manyNames`. What must be closed or removed is added to `cleanup`. */
  readonly open: (cleanup: AsyncDisposableStack) => Promise<FileTree>
  /** What this filesystem has not. */
  readonly without?: readonly (
    | 'symlinks'
    | 'hard links'
    | 'xattrs'
    | 'fifos'
    | 'permissions'
    | 'odd bytes'
    | 'holes'
    | 'nanoseconds'
  )[]
}

export const manyNames = (count = 10_000): string[] => Array.from({ length: count }, (_, index) => `name-${index}`)

export async function entriesOf(node: DirectoryNode): Promise<Entry[]> {
  return (await Array.fromAsync(node.list())).flat()
}

async function at(node: TreeNode, ...names: string[]): Promise<TreeNode> {
  let here = node
  for (const name of names) {
    assert.equal(here.kind, 'directory', `above ${name}`)
    const next: TreeNode | undefined = await (here as DirectoryNode).lookup(name)
    assert.ok(next, `there is no ${JSON.stringify(name)}`)
    here = next
  }
  return here
}

async function as<K extends TreeNode['kind']>(kind: K, node: TreeNode): Promise<Extract<TreeNode, { kind: K }>> {
  assert.equal(node.kind, kind)
  return node as Extract<TreeNode, { kind: K }>
}

export async function contentOf(node: FileNode): Promise<Buffer> {
  await using reader = await node.open()
  const bytes = Buffer.alloc(reader.size)
  await reader.readInto(bytes, 0)
  return bytes
}

/** Without the last access, which is the suite's own. */
const shown = ({ accessedNs: _, ...rest }: Attributes): string =>
  JSON.stringify(rest, (_, value) => (typeof value === 'bigint' ? `${value}` : value))

export function fileTreeContract({ name, open, without = [] }: ContractCase): void {
  const has = (feature: (typeof without)[number]) => !without.includes(feature)
  type Body = (root: DirectoryNode) => Promise<void>
  const check = (behaviour: string, body: Body) =>
    test(behaviour, async () => {
      await using cleanup = new AsyncDisposableStack()
      const tree = cleanup.use(await open(cleanup))
      await body(tree.root)
    })
  /** What a filesystem has none of is no behaviour of its tree. */
  const checkWhere = (feature: (typeof without)[number], behaviour: string, body: Body) => {
    if (has(feature)) check(behaviour, body)
  }

  suite(`${name}: FileTree contract`, () => {
    check('lookup and list tell the same', async root => {
      const compare = async (node: DirectoryNode, path: string): Promise<void> => {
        const names = new Set<string>()
        for (const entry of await entriesOf(node)) {
          assert.ok(!names.has(entry.name), `${path}/${entry.name} comes twice`)
          names.add(entry.name)
          const found = await node.lookup(entry.name)
          assert.ok(found, `${path}/${entry.name} is listed and not found`)
          assert.equal(found.tree, entry.node.tree)
          assert.equal(found.kind, found.attributes().kind)
          assert.equal(shown(found.attributes()), shown(entry.node.attributes()), `${path}/${entry.name}`)
          if (found.kind === 'directory' && entry.name !== 'many') await compare(found, `${path}/${entry.name}`)
        }
      }
      await compare(root, '')
      const names = (await entriesOf(root)).map(entry => entry.name)
      const expected = Object.keys(sampleTree).filter(
        key => (has('symlinks') || sampleTree[key]!.kind !== 'symlink') && (has('fifos') || key !== 'pipe'),
      )
      for (const key of expected) assert.ok(names.includes(key), `${key} is listed`)
    })

    check('a name that is not there is undefined, whatever it is', async root => {
      for (const missing of [
        'absent',
        'EMPTY ',
        '',
        '.',
        '..',
        'deep/down',
        '/',
        'a\0b',
        'x'.repeat(300),
        '\ud800',
        '\udc80',
      ])
        assert.equal(await root.lookup(missing), undefined, JSON.stringify(missing))
    })

    check('contents are what they are, in any piece', async root => {
      const node = await as('file', await at(root, 'content'))
      assert.equal(node.attributes().size, CONTENT.length)
      assert.ok((await contentOf(node)).equals(CONTENT))
      await using reader = await node.open()
      assert.equal(reader.size, CONTENT.length)
      for (const [offset, length] of [
        [0, 0],
        [1, 1],
        [4095, 2],
        [299_999, 1],
        [12_345, 200_001],
        [CONTENT.length, 0],
      ] as const) {
        const bytes = Buffer.alloc(length, 0xee)
        await reader.readInto(bytes, offset)
        assert.ok(bytes.equals(CONTENT.subarray(offset, offset + length)), `${offset}+${length}`)
      }
      await assert.rejects(reader.readInto(Buffer.alloc(2), CONTENT.length - 1), RangeError)
      assert.equal((await contentOf(await as('file', await at(root, 'empty')))).length, 0)
    })

    check('closing one reader of a file leaves the others', async root => {
      const node = await as('file', await at(root, 'content'))
      await using stays = await node.open()
      const goes = await node.open()
      await goes[Symbol.asyncDispose]()
      const bytes = Buffer.alloc(100)
      await stays.readInto(bytes, 1000)
      assert.ok(bytes.equals(CONTENT.subarray(1000, 1100)))
    })

    check('extents cover exactly what was asked for, and zeros are zeros', async root => {
      for (const [name, size] of [
        ['sparse', 10 * 1024 * 1024 + 5],
        ['content', CONTENT.length],
        ['empty', 0],
      ] as const) {
        const node = await as('file', await at(root, name))
        await using reader = await node.open()
        assert.equal(reader.size, size)
        for (const range of [
          { offset: 0, length: size },
          { offset: Math.floor(size / 3), length: Math.floor(size / 2) },
        ]) {
          let covered = range.offset
          let zeros = 0
          for await (const extent of reader.extents(range)) {
            assert.equal(extent.offset, covered)
            assert.ok(extent.length > 0)
            covered = rangeEnd(extent)
            if (extent.kind === 'data') continue
            zeros += extent.length
            const bytes = Buffer.alloc(Math.min(extent.length, 1 << 20), 1)
            await reader.readInto(bytes, extent.offset)
            assert.ok(bytes.every(byte => byte === 0))
          }
          assert.equal(covered, rangeEnd(range))
          if (name === 'sparse' && has('holes') && range.offset === 0)
            assert.ok(zeros > 9_000_000, `${zeros} bytes are a hole`)
        }
      }
      const sparse = (await at(root, 'sparse')).attributes()
      if (has('holes')) assert.ok(sparse.allocated < 1024 * 1024, `${sparse.allocated} allocated`)
    })

    checkWhere('hard links', 'two names of one file are one inode', async root => {
      const first = await at(root, 'first')
      const second = await at(root, 'deep', 'down', 'second')
      assert.equal(first.attributes().inode, second.attributes().inode)
      assert.equal(first.tree, second.tree)
      assert.equal(first.attributes().links, 2)
      assert.notEqual(first.attributes().inode, (await at(root, 'content')).attributes().inode)
    })

    checkWhere('symlinks', 'links say what they lead to, and are not followed', async root => {
      const expected = { absolute: '/nowhere/at/all', ...(has('odd bytes') ? { bytes: '\udcff\udcfe/é' } : {}) }
      for (const [link, target] of Object.entries(expected)) {
        const node = await as('symlink', await at(root, link))
        assert.equal(await node.readLink(), target)
        assert.equal(node.attributes().size, encodeName(target).length)
      }
      assert.equal(await (await as('symlink', await at(root, 'deep', 'link'))).readLink(), 'down/second')
    })

    checkWhere('xattrs', 'extended attributes have their names and bytes', async root => {
      const xattrs = await (await at(root, 'with attributes')).xattrs()
      assert.deepEqual(Buffer.from(xattrs.get('user.plain')!), Buffer.from('value'))
      assert.equal(xattrs.get('user.empty')?.length, 0)
      const none = await (await at(root, 'content')).xattrs()
      assert.deepEqual(
        [...none.keys()].filter(key => key.startsWith('user.')),
        [],
      )
    })

    check('attributes are those of the file', async root => {
      const empty = (await at(root, 'empty')).attributes()
      const deep = (await at(root, 'deep')).attributes()
      assert.equal(deep.kind, 'directory')
      if (has('permissions')) {
        assert.equal(empty.permissions, 0o400)
        assert.equal(deep.permissions, 0o751)
        assert.equal((await at(root, 'first')).attributes().permissions, 0o600)
      }
      if (has('fifos')) assert.equal((await at(root, 'pipe')).attributes().kind, 'fifo')
      const { modifiedNs } = (await at(root, 'content')).attributes()
      if (has('nanoseconds')) assert.equal(modifiedNs, 1_600_000_000n * NS + 1n)
      else assert.ok(modifiedNs / NS - 1_600_000_000n <= 2n && modifiedNs / NS >= 1_599_999_998n, `${modifiedNs}`)
    })

    check('names are any bytes', async root => {
      const odd = await as('directory', await at(root, 'odd'))
      const names = Object.keys((sampleTree.odd as { entries: object }).entries).filter(
        key => has('odd bytes') || /^[-\p{L}\p{M}.]+$/u.test(key),
      )
      const listed = (await entriesOf(odd)).map(entry => entry.name)
      for (const key of names) {
        assert.ok(listed.includes(key), JSON.stringify(key))
        assert.ok(await odd.lookup(key), JSON.stringify(key))
      }
      if (has('odd bytes'))
        assert.equal((await contentOf(await as('file', await at(odd, '\udcff\udc80')))).toString(), 'not UTF-8')
    })

    check('10,000 entries come once each, in one order', async root => {
      const many = await as('directory', await at(root, 'many'))
      const names = (await entriesOf(many)).map(entry => entry.name)
      assert.deepEqual(names.toSorted(), manyNames().sort())
      assert.deepEqual(
        (await entriesOf(many)).map(entry => entry.name),
        names,
      )
    })

    check('calls may overlap', async root => {
      const many = await as('directory', await at(root, 'many'))
      const content = await as('file', await at(root, 'content'))
      await using reader = await content.open()
      const checks: (() => Promise<void>)[] = []
      for (let turn = 0; turn < 16; turn++)
        checks.push(
          async () => {
            if (turn % 8 === 0) assert.equal((await entriesOf(many)).length, 10_000)
          },
          async () => {
            const offset = turn * 4321
            const bytes = Buffer.alloc(54_321)
            await reader.readInto(bytes, offset)
            assert.ok(bytes.equals(CONTENT.subarray(offset, offset + bytes.length)))
          },
          async () => assert.ok((await contentOf(content)).equals(CONTENT)),
          async () => assert.ok(await many.lookup(`name-${turn * 600}`)),
          async () => assert.equal(await many.lookup(`none-${turn}`), undefined),
        )
      await forEachLimited(checks, checks.length, check => check())
    })

    check('a list that is given up early ends, and the tree goes on', async root => {
      const many = await as('directory', await at(root, 'many'))
      for (let turn = 0; turn < 20; turn++) {
        let seen = 0
        for await (const batch of many.list()) {
          seen += batch.length
          break
        }
        assert.ok(seen > 0)
      }
      assert.equal((await entriesOf(many)).length, 10_000)
    })

    check('what is aborted rejects with the reason, and the tree goes on', async root => {
      const reason = new Error('enough')
      const signal = AbortSignal.abort(reason)
      const isReason = (error: unknown) => error === reason
      const many = await as('directory', await at(root, 'many'))
      const content = await as('file', await at(root, 'content'))
      await using reader = await content.open()
      const calls: Readonly<Record<string, () => Promise<unknown>>> = {
        lookup: () => many.lookup('name-1', { signal }),
        list: () => Array.fromAsync(many.list({ signal })),
        read: () => reader.readInto(Buffer.alloc(10), 0, { signal }),
      }
      for (const [call, run] of Object.entries(calls)) await assert.rejects(run(), isReason, call)
      const stopped = new AbortController()
      const listing = (async () => {
        for await (const _ of many.list({ signal: stopped.signal })) stopped.abort(reason)
      })()
      // It may have had all of it already.
      await listing.catch(error => assert.equal(error, reason))
      assert.ok(await many.lookup('name-1'))
      assert.ok((await contentOf(content)).equals(CONTENT))
    })

    check('what is frozen tells the same later', async root => {
      const node = await at(root, 'content')
      if (!node.isFrozen) return
      const before = shown(node.attributes())
      await contentOf(await as('file', node))
      assert.equal(shown(node.attributes()), before)
      assert.equal(shown((await at(root, 'content')).attributes()), before)
    })
  })
}
