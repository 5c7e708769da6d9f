/** What a hostile tree can try against the folder that it is restored into: nothing may change outside of it. */
import assert from 'node:assert/strict'
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { type CopyOutOptions, copyOut } from '../../../src/files/copy-out.ts'
import type { DirectoryNode, FileNode } from '../../../src/files/file-tree.ts'
import type { problemList } from '../../../src/files/problems.ts'
import { walk } from '../../../src/files/walk.ts'
import { directoryTree } from '../../doubles/directory-tree.ts'
import { device, fileOf, fileWithExtents, folderOf, linkTo, lying } from '../../doubles/hostile-tree.ts'

interface Attack {
  readonly name: string
  readonly tree: (outside: string) => DirectoryNode
  /** Of one problem, as 'path kind reason'. */
  readonly told?: RegExp
  /** What is in the target at the end. */
  readonly left: readonly string[]
  readonly mayLack?: readonly string[]
  readonly options?: Partial<CopyOutOptions>
}

const isRoot = process.geteuid?.() === 0
const named = (name: string): Attack => ({
  name: `a file named ${JSON.stringify(name.slice(0, 20))}`,
  tree: () => folderOf([name, fileOf('escaped')], ['good', fileOf('')]),
  told: /refused this cannot be the name of a file/,
  left: ['good'],
})
const sized = (size: number): Attack => ({
  name: `a file of ${size} bytes`,
  tree: () => folderOf(['f', lying(fileOf('x'), { size })], ['good', fileOf('')]),
  told: /^f (unreadable|refused) /,
  left: ['good'],
})

const ATTACKS: readonly Attack[] = [
  ...['', '.', '..', '../x', '../../x', '/x', '/etc/x', 'a/../../x', 'a\0b', 'x'.repeat(10_000), 'x'.repeat(256)].map(
    named,
  ),
  {
    name: 'a directory named ..',
    tree: () => folderOf(['..', folderOf(['outside', folderOf(['x', fileOf('escaped')])])]),
    told: /^\.\. refused/,
    left: [],
  },
  {
    name: 'a link out, then a directory of the same name with a file in it',
    tree: outside => folderOf(['d', linkTo(outside)], ['d', folderOf(['x', fileOf('escaped')])]),
    told: /^d refused the directory has this name twice/,
    left: ['d'],
  },
  {
    name: 'a directory, then a link out of the same name',
    tree: outside => folderOf(['d', folderOf(['x', fileOf('inside')])], ['d', linkTo(outside)]),
    told: /^d refused/,
    left: ['d', 'd/x'],
  },
  {
    name: 'a link to a file outside, then a file of the same name',
    tree: outside => folderOf(['f', linkTo(`${outside}/secret`)], ['f', fileOf('escaped')]),
    told: /^f refused/,
    left: ['f'],
  },
  {
    name: 'one file twice',
    tree: () => folderOf(['f', fileOf('1')], ['f', fileOf('2')]),
    told: /^f refused/,
    left: ['f'],
  },
  {
    name: 'links whose mode and owner are asked for: those of what they lead to must stay',
    tree: outside =>
      folderOf(['l', linkTo(`${outside}/secret`, { permissions: 0o4777, uid: 1, gid: 1, modifiedNs: 1n })]),
    left: ['l'],
    options: { setuid: true },
  },
  {
    name: 'hard links without end, and a link with the same inode as a file',
    tree: outside => {
      const inode = 77n
      return folderOf(
        ['a', linkTo(`${outside}/secret`, { inode, links: 9 })],
        ['b', fileOf('shared', { inode, links: 2 ** 32 - 1 })],
        ['c', fileOf('shared', { inode, links: 2 ** 32 - 1 })],
      )
    },
    left: ['a', 'b', 'c'],
  },
  {
    name: 'a device',
    tree: () => folderOf(['disk', device(8, 0)]),
    told: /^disk left-out device node/,
    left: [],
  },
  {
    name: 'a device with numbers that there are not',
    tree: () => folderOf(['a', device(-1, 0)], ['b', device(2 ** 40, 0)], ['c', device(Number.NaN, 1)]),
    told: /^a refused there is no device/,
    left: [],
    options: { devices: true },
  },
  {
    name: 'set-user-id',
    tree: () =>
      folderOf(['su', fileOf('x', { permissions: 0o6755, uid: process.geteuid!(), gid: process.getegid!() })]),
    told: /^su left-out set-user-id/,
    left: ['su'],
  },
  {
    name: 'set-user-id of an owner who is none, asked for',
    tree: () => folderOf(['su', fileOf('x', { permissions: 0o4755, uid: 2 ** 32 - 1 })]),
    told: /^su not-set set-user-id/,
    left: ['su'],
    options: { setuid: true },
  },
  {
    name: 'capabilities',
    tree: () => folderOf(['cap', fileOf('x', { xattrs: { 'security.capability': Buffer.alloc(20) } })]),
    told: /^cap left-out capabilities/,
    left: ['cap'],
  },
  {
    name: 'attributes with names and sizes that there are not',
    tree: () =>
      folderOf([
        'f',
        fileOf('x', {
          xattrs: {
            '': Buffer.alloc(1),
            'user.a\0b': Buffer.alloc(1),
            'system.evil': Buffer.alloc(1),
            'user.big': Buffer.alloc(1 << 20),
          },
        }),
      ]),
    told: /^f not-set attribute user\.big/,
    left: ['f'],
  },
  {
    name: 'times that there are not, of an owner who is',
    tree: () => folderOf(['f', fileOf('x', { modifiedNs: 2n ** 100n, accessedNs: -(2n ** 100n) })]),
    told: /^f not-set times/,
    left: ['f'],
  },
  {
    name: 'owners, modes and times that there are not',
    tree: () =>
      folderOf([
        'f',
        fileOf('x', {
          uid: -1,
          gid: Number.NaN,
          permissions: Number.NaN,
          modifiedNs: 2n ** 80n,
          accessedNs: -(2n ** 70n),
        }),
      ]),
    told: /^f not-set (owner|times)/,
    left: ['f'],
  },
  ...[-1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, 2 ** 63, 2 ** 64, 5].map(sized),
  {
    name: 'a hole of 8 PiB',
    tree: () => folderOf(['f', fileWithExtents(2 ** 53 - 1, () => [{ offset: 0, length: 2 ** 53 - 1, kind: 'zero' }])]),
    // ext4 refuses it; others hold it, without a byte on the disk.
    left: ['f'],
    mayLack: ['f'],
  },
  ...[
    {
      what: 'that overlap',
      of: [
        { offset: 0, length: 90_000 },
        { offset: 50_000, length: 50_000 },
      ],
    },
    { what: 'below zero', of: [{ offset: -5000, length: 105_000 }] },
    {
      what: 'of a negative length',
      of: [
        { offset: 0, length: -1 },
        { offset: -1, length: 100_001 },
      ],
    },
    { what: 'of no length, for ever', of: [{ offset: 0, length: 0 }] },
    { what: 'past the end', of: [{ offset: 0, length: 2 ** 50 }] },
    { what: 'that leave something out', of: [{ offset: 0, length: 4096 }] },
    { what: 'of no number', of: [{ offset: 0, length: Number.NaN }] },
  ].map(
    ({ what, of }): Attack => ({
      name: `extents ${what}`,
      tree: () =>
        folderOf(['f', fileWithExtents(100_000, () => of.map(range => ({ ...range, kind: 'data' as const })))]),
      told: /^f unreadable the file's extents do not cover it/,
      left: [],
    }),
  ),
  {
    name: 'a directory that contains itself',
    tree: () => {
      const root: DirectoryNode = {
        ...folderOf(),
        list: async function* () {
          yield [{ name: 'self', node: root }]
        },
      }
      return root
    },
    told: /^self refused the directory contains itself/,
    left: [],
  },
  {
    name: 'links that lead nowhere that can be',
    tree: () => folderOf(['a', linkTo('')], ['b', linkTo('x\0y')], ['c', linkTo('z'.repeat(5000))]),
    told: /^a refused/,
    left: [],
  },
]

/** Everything below a folder: names, kinds, attributes, contents. */
async function snapshot(folder: string): Promise<string[]> {
  await using tree = await directoryTree(folder)
  const lines: string[] = []
  for await (const event of walk({ path: [], node: tree.root })) {
    if (event.kind !== 'entry') continue
    const { accessedNs: _, ...attributes } = event.node.attributes()
    const shown = JSON.stringify(attributes, (_, value) => (typeof value === 'bigint' ? `${value}` : value))
    lines.push(`${event.path.join('/')} ${shown} ${event.node.kind === 'file' ? await textOf(event.node) : ''}`)
  }
  return lines
}

/** Below a folder, without following links. */
async function namesIn(folder: string): Promise<string[]> {
  const names = (await snapshot(folder)).map(line => line.slice(0, line.indexOf(' ')))
  return names.filter(name => name !== '')
}

async function textOf(node: FileNode): Promise<string> {
  await using reader = await node.open()
  const bytes = Buffer.alloc(reader.size)
  await reader.readInto(bytes, 0)
  return bytes.toString()
}

async function box(cleanup: AsyncDisposableStack) {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-hostile-'))
  cleanup.defer(() => rm(folder, { recursive: true }))
  const outside = join(folder, 'outside')
  await mkdir(outside)
  await writeFile(join(outside, 'secret'), 'secret', { mode: 0o600 })
  return { folder, outside, target: join(folder, 'in', 'target') }
}

const told = (problems: ReturnType<typeof problemList>['first']) =>
  problems.map(({ path, kind, reason }) => `${path} ${kind} ${reason}`)

test('no hostile tree changes anything outside of its target', async t => {
  let escapes = 0
  for (const [index, attack] of ATTACKS.entries()) {
    await using cleanup = new AsyncDisposableStack()
    const { folder, outside, target } = await box(cleanup)
    await mkdir(target, { recursive: true })
    const before = [...(await snapshot(outside)), ...(await readdir(folder)), ...(await readdir(join(folder, 'in')))]
    const options = { resumeKey: attack.name, ...attack.options }
    const { problems } = await copyOut([{ path: [], node: attack.tree(outside) }], target, options)
    const after = [...(await snapshot(outside)), ...(await readdir(folder)), ...(await readdir(join(folder, 'in')))]
    const isEscape = JSON.stringify(before) !== JSON.stringify(after)
    escapes += isEscape ? 1 : 0
    t.diagnostic(
      `${index + 1}/${ATTACKS.length} ${attack.name}: ${told(problems.first)[0] ?? 'nothing to tell'}`
        .replaceAll('\0', '\\0')
        .slice(0, 160),
    )
    assert.ok(!isEscape, `${attack.name}: ${before} became ${after}`)
    if (attack.told)
      assert.ok(
        told(problems.first).some(line => attack.told!.test(line)),
        `${attack.name}: ${told(problems.first)}`,
      )
    const left = await namesIn(target)
    const expected = attack.left.filter(name => left.includes(name) || !attack.mayLack?.includes(name))
    assert.deepEqual(left.sort(), expected.sort(), attack.name)
    for (const name of left) {
      const { mode } = await stat(join(target, name)).catch(() => ({ mode: 0 }))
      if (name === 'su') assert.equal(mode & 0o6000, 0, `${attack.name}: ${name} is set-user-id`)
    }
  }
  t.diagnostic(`escapes ${escapes} of ${ATTACKS.length} attacks${isRoot ? ', as root' : ''}`)
  assert.equal(escapes, 0)
})

test('depth and number of directories have an end', async () => {
  await using cleanup = new AsyncDisposableStack()
  const { target } = await box(cleanup)
  let made = 0
  const endless = (): DirectoryNode => {
    made += 1
    return {
      ...folderOf(),
      list: async function* () {
        yield [{ name: 'd', node: endless() }]
      },
    }
  }
  const { problems, directories } = await copyOut([{ path: [], node: endless() }], target, { resumeKey: 'endless' })
  assert.match(told(problems.first)[0]!, /refused it lies more than 256 directories deep/)
  assert.ok(directories <= 256 && made < 1000, `${directories} made, ${made} looked at`)
})

test('sources that would be reached through a link of another source are refused', async () => {
  await using cleanup = new AsyncDisposableStack()
  const { outside, target } = await box(cleanup)
  const before = await snapshot(outside)
  const sources = [
    { path: ['d'], node: linkTo(outside) },
    { path: ['d', 'x'], node: fileOf('escaped') },
  ]
  const { problems } = await copyOut(sources, target, { resumeKey: 'x' })
  // Whichever of the two comes first has the name.
  assert.match(told(problems.first)[0]!, /^d(\/x)? refused/)
  assert.deepEqual(await snapshot(outside), before)
  for (const path of [['..', 'x'], ['/x'], ['']])
    await assert.rejects(copyOut([{ path, node: fileOf('') }], target, { resumeKey: 'y' }), error =>
      isLifeboatError(error, 'usage'),
    )
})

/** Somebody who may write in the target's own folder, at the worst moment: while contents are read. */
const whileRead = (act: () => Promise<void>): FileNode => {
  const node = fileOf('late')
  return {
    ...node,
    open: async options => {
      await act()
      return node.open(options)
    },
  }
}

test('folders that somebody replaces by links out while files are restored are not followed', async t => {
  let swaps = 0
  const steps: Readonly<Record<string, (target: string, staging: string, outside: string) => Promise<void>>> = {
    'the staging folder': async (_target, staging, outside) => {
      await rename(staging, `${staging}.moved`)
      await symlink(outside, staging)
    },
    'the tree in it': async (_target, staging, outside) => {
      await rename(join(staging, 'tree'), join(staging, 'moved'))
      await symlink(outside, join(staging, 'tree'))
    },
    'a folder that is being filled': async (_target, staging, outside) => {
      await rename(join(staging, 'tree', 'd'), join(staging, 'moved'))
      await symlink(outside, join(staging, 'tree', 'd'))
    },
    'the parts': async (_target, staging, outside) => {
      await rename(join(staging, 'parts'), join(staging, 'moved'))
      await symlink(outside, join(staging, 'parts'))
    },
    'the target': async (target, _staging, outside) => {
      await rename(target, `${target}.moved`)
      await symlink(outside, target)
    },
  }
  for (const [what, swap] of Object.entries(steps)) {
    await using cleanup = new AsyncDisposableStack()
    const { outside, target } = await box(cleanup)
    const before = await snapshot(outside)
    const act = async () => {
      const staging = (await readdir(target)).find(name => name.startsWith('.lifeboat-get-'))!
      await swap(target, join(target, staging), outside)
      swaps += 1
    }
    const node = folderOf(['d', folderOf(['late', whileRead(act)], ['later', fileOf('later')])], ['last', fileOf('')])
    const outcome = await copyOut([{ path: [], node }], target, { resumeKey: what }).then(
      ({ problems }) => `done, ${problems.count} problems`,
      error => `failed: ${error.message}`,
    )
    t.diagnostic(`${what} was replaced: ${outcome}`)
    assert.deepEqual(await snapshot(outside), before, what)
  }
  assert.equal(swaps, 5)
})

test('a link out that is planted where a restore keeps what is not complete is not followed', async () => {
  await using cleanup = new AsyncDisposableStack()
  const { outside, target } = await box(cleanup)
  await chmod(outside, 0o700)
  let name = ''
  const look = async () => {
    name = (await readdir(target))[0]!
  }
  await copyOut([{ path: ['f'], node: whileRead(look) }], target, { resumeKey: 'planted' })
  assert.match(name, /^\.lifeboat-get-/)
  for (const planted of [name, join(name, 'tree')]) {
    await rm(join(target, name), { recursive: true, force: true })
    await mkdir(join(target, planted, '..'), { recursive: true, mode: 0o700 })
    if (planted !== name) {
      await chmod(join(target, name), 0o700)
      await writeFile(join(target, name, 'boot'), (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim())
    }
    await symlink(outside, join(target, planted))
    const before = await snapshot(outside)
    const again = copyOut([{ path: ['g'], node: fileOf('escaped') }], target, { resumeKey: 'planted' })
    await assert.rejects(again, error => isLifeboatError(error, 'output-failed'), planted)
    assert.deepEqual(await snapshot(outside), before)
  }
})

test('links that are in the target already are replaced where that is asked for, and never followed', async () => {
  await using cleanup = new AsyncDisposableStack()
  const { outside, target } = await box(cleanup)
  await mkdir(target, { recursive: true })
  await symlink(join(outside, 'secret'), join(target, 'f'))
  await symlink(outside, join(target, 'd'))
  const before = await snapshot(outside)
  const node = folderOf(['f', fileOf('new')], ['d', folderOf(['secret', fileOf('new')])])
  await assert.rejects(copyOut([{ path: [], node }], target, { resumeKey: 'a' }), error =>
    isLifeboatError(error, 'output-exists'),
  )
  const { problems } = await copyOut([{ path: [], node }], target, { resumeKey: 'a', force: true })
  assert.deepEqual(told(problems.first), ['d refused a file is in its place'])
  assert.deepEqual(await snapshot(outside), before)
  assert.equal((await stat(join(target, 'f'))).size, 3)
})
