import assert from 'node:assert/strict'
import {
  chmod,
  chown,
  symlink as link,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { limits, MiB } from '../../../src/core/limits.ts'
import type { CopyCounts } from '../../../src/files/copied.ts'
import { type CopyOutOptions, copyOut } from '../../../src/files/copy-out.ts'
import type { DirectoryNode, FileNode } from '../../../src/files/file-tree.ts'
import { type Described, directory, file, memoryTree, symlink } from '../../../src/files/memory-tree.ts'
import { virtualFile } from '../../../src/files/virtual-node.ts'
import { directoryTree } from '../../doubles/directory-tree.ts'
import { folderOf } from '../../doubles/hostile-tree.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { lacking, run } from '../../doubles/peer-tools.ts'
import { describeFolder, makeReferenceFolder } from '../../doubles/reference-folder.ts'

const asRoot = process.geteuid?.() === 0 ? false : 'needs root'

async function scratch(cleanup: AsyncDisposableStack): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-copy-'))
  cleanup.defer(() => rm(folder, { recursive: true, force: true }))
  return folder
}

const restore = (root: DirectoryNode, target: string, options: Partial<CopyOutOptions> = {}) =>
  copyOut([{ path: [], node: root }], target, { resumeKey: 'test', ...options })
const treeOf = (entries: Record<string, Described>) => memoryTree(entries).root
const hasCode = (code: Parameters<typeof isLifeboatError>[1]) => (error: unknown) => isLifeboatError(error, code)
const told = ({ problems }: Awaited<ReturnType<typeof copyOut>>) =>
  problems.first.map(({ path, kind, reason }) => `${path} ${kind} ${reason}`)

test('a folder comes back as it was', { skip: asRoot || lacking('python3') }, async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  await makeReferenceFolder(join(folder, 'original'))
  await using tree = await directoryTree(join(folder, 'original'))
  const target = join(folder, 'new', 'restored')
  const sources = [{ path: ['a', 'copy'], node: tree.root }]
  const copied = await copyOut(sources, target, { resumeKey: 'x', setuid: true, devices: true })
  assert.deepEqual(told(copied), [])
  assert.deepEqual(await describeFolder(join(target, 'a', 'copy')), await describeFolder(join(folder, 'original')))
  assert.deepEqual(await readdir(target), ['a'])
  assert.deepEqual([copied.files, copied.hardLinks, copied.others], [18, 2, 5])
})

test('without asking for them there are no devices, set-user-id or capabilities, and each is named', {
  skip: asRoot || lacking('python3'),
}, async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  await makeReferenceFolder(join(folder, 'original'))
  await using tree = await directoryTree(join(folder, 'original'))
  const copied = await restore(tree.root, join(folder, 'out'))
  assert.deepEqual(told(copied).sort(), [
    'block left-out device node',
    'capability left-out capabilities',
    'null left-out device node',
    'setuid left-out set-user-id or set-group-id',
  ])
  const original = (await describeFolder(join(folder, 'original'))).slice(1)
  const restored = (await describeFolder(join(folder, 'out'))).slice(1)
  const differs = original.filter(line => !restored.includes(line)).map(line => line.split(' ')[0])
  assert.deepEqual(differs, ["b'./block'", "b'./capability'", "b'./null'", "b'./setuid'"])
  assert.equal((await lstat(join(folder, 'out', 'setuid'))).mode & 0o7777, 0o755)
})

test('who is not root is told what was not set', { skip: asRoot }, async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  await chown(folder, 65534, 65534)
  const child = fileURLToPath(new URL('../../doubles/copy-out-child.ts', import.meta.url))
  const asNobody = async (target: string) =>
    JSON.parse(
      await run('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, child, target),
    )
  const copied = await asNobody(join(folder, 'out'))
  assert.deepEqual(told(copied).sort(), [
    'capable not-set attribute security.capability: EPERM',
    'null refused EPERM',
    'others not-set owner 1234:4321: EPERM',
    "others not-set set-user-id or set-group-id of a file that is not its owner's",
  ])
  const modes = Object.fromEntries(
    await Promise.all(
      ['mine', 'others', 'read-only', 'closed', 'fifo'].map(async name => {
        const { mode, uid } = await lstat(join(folder, 'out', name))
        return [name, `${uid} ${(mode & 0o7777).toString(8)}`] as const
      }),
    ),
  )
  assert.deepEqual(modes, {
    mine: '65534 400',
    others: '65534 755',
    'read-only': '65534 555',
    closed: '65534 0',
    fifo: '65534 644',
  })
  assert.equal(await readFile(join(folder, 'out', 'closed', 'file'), 'utf8'), 'deep')
  assert.deepEqual(
    (await readdir(join(folder, 'out'))).filter(name => name.startsWith('.')),
    [],
  )

  await mkdir(join(folder, 'denied'), { mode: 0o755 })
  const denied = await asNobody(join(folder, 'denied'))
  assert.equal(denied.code, 'output-failed')
  assert.match(denied.message, /cannot be written: EACCES/)
})

/** Contents that count who reads them, and may wait or fail. */
function watched(reads: string[], name: string, bytes: Buffer, before: () => Promise<void> = async () => {}): FileNode {
  return virtualFile({
    tree: 'watched',
    inode: BigInt(Buffer.from(name).reduce((sum, byte) => sum * 256 + byte, 0)),
    size: bytes.length,
    modifiedNs: 1_700_000_000_123_456_789n,
    open: async () => ({
      size: bytes.length,
      blockSize: 4096,
      async readInto(target, offset, { signal } = {}) {
        reads.push(name)
        await before()
        signal?.throwIfAborted()
        target.set(bytes.subarray(offset, offset + target.length))
      },
      async *extents({ offset, length }) {
        yield { offset, length, kind: 'data' }
      },
      [Symbol.asyncDispose]: async () => {},
    }),
  })
}

test('an interrupted restore goes on where it stopped', async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = join(await scratch(cleanup), 'out')
  const reads: string[] = []
  const stopped = new AbortController()
  const names = Array.from({ length: 60 }, (_, index) => `f${index}`)
  const bytes = patternBytes(3000)
  let isStopping = true
  const stop = async () => {
    if (isStopping) stopped.abort(new Error('Ctrl-C'))
  }
  const sub = folderOf(
    ...names.map(name => [name, watched(reads, name, bytes, name === 'f50' ? stop : undefined)] as const),
  )
  const root = folderOf(['d', sub], ['last', watched(reads, 'last', bytes)])
  await assert.rejects(restore(root, target, { signal: stopped.signal }), /Ctrl-C/)
  assert.deepEqual(
    (await readdir(target)).map(name => name.slice(0, 14)),
    ['.lifeboat-get-'],
    'nothing half done is seen',
  )
  const before = reads.splice(0).length
  assert.ok(before > 20 && before < 61, `${before} were begun`)

  isStopping = false
  const copied = await restore(root, target)
  assert.ok(copied.resumed > 10, `${copied.resumed} were there`)
  assert.equal(copied.resumed + copied.files, 61)
  assert.equal(reads.length, copied.files, 'what was complete is not read again')
  assert.deepEqual((await readdir(target)).sort(), ['d', 'last'])
  for (const name of names) assert.ok((await readFile(join(target, 'd', name))).equals(bytes), name)
})

test('what a crash of the host may have left unwritten is read again', async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = join(await scratch(cleanup), 'out')
  const reads: string[] = []
  let isAway = true
  const fail = async () => {
    if (isAway) throw new LifeboatError('store-unreachable', 'away')
  }
  const one = watched(reads, 'one', patternBytes(100))
  const root = folderOf(['one', one], ['two', watched(reads, 'two', patternBytes(100), fail)])
  for (let turn = 0; turn < 3 && !(await readdir(target).catch(() => [])).length; turn++)
    await assert.rejects(restore(root, target), /away/)
  isAway = false
  const staging = (await readdir(target))[0]!
  await writeFile(join(target, staging, 'boot'), 'another boot')
  assert.equal((await restore(root, target)).resumed, 0)
  assert.deepEqual(await readdir(target), ['one', 'two'])
})

test('nothing that is there is touched unless that is asked for', async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = await scratch(cleanup)
  await mkdir(join(target, 'd'), { mode: 0o700 })
  await writeFile(join(target, 'd', 'old'), 'old')
  await writeFile(join(target, 'd', 'both'), 'old')
  await writeFile(join(target, 'f'), 'old')
  await mkdir(join(target, 'x'))
  const root = treeOf({
    new: file('new'),
    d: directory(
      { both: file('new'), new: file('new') },
      { permissions: 0o751, modifiedNs: 5n, xattrs: new Map([['user.x', Buffer.from('y')]]) },
    ),
    f: file('new'),
    x: symlink('f'),
  })
  await assert.rejects(restore(root, target), hasCode('output-exists'))
  assert.equal(await readFile(join(target, 'f'), 'utf8'), 'old')
  assert.deepEqual((await readdir(target)).filter(name => !name.startsWith('.')).sort(), ['d', 'f', 'x'])

  assert.deepEqual(told(await restore(root, target, { force: true })), ['x refused a directory is in its place'])
  const contents = async (name: string) => [name, await readFile(join(target, name), 'utf8')]
  assert.deepEqual(await Promise.all(['d/old', 'd/both', 'd/new', 'f', 'new'].map(contents)), [
    ['d/old', 'old'],
    ['d/both', 'new'],
    ['d/new', 'new'],
    ['f', 'new'],
    ['new', 'new'],
  ])
  const { mode, mtimeNs } = await lstat(join(target, 'd'), { bigint: true })
  assert.equal(Number(mode) & 0o777, 0o751)
  assert.equal(mtimeNs, 5n)
  assert.deepEqual((await readdir(target)).sort(), ['d', 'f', 'new', 'x'])
})

test('what is in the way is told before anything is read', async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = await scratch(cleanup)
  await writeFile(join(target, 'one'), 'old')
  const reads: string[] = []
  await assert.rejects(
    restore(folderOf(['one', watched(reads, 'one', patternBytes(10))]), target),
    hasCode('output-exists'),
  )
  assert.deepEqual(reads, [])
  assert.deepEqual(await readdir(target), ['one'])
})

test('what has come meanwhile is not replaced', async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = await scratch(cleanup)
  for (const name of ['f', 'd']) {
    const come = async () => {
      if (name === 'd') await mkdir(join(target, 'd'))
      await writeFile(join(target, name === 'd' ? 'd/x' : 'f'), 'theirs')
    }
    const node = watched([], 'x', patternBytes(10), come)
    const source = { path: name === 'd' ? ['d', 'x'] : ['f'], node }
    await assert.rejects(copyOut([source], target, { resumeKey: name }), hasCode('output-exists'))
    assert.equal(await readFile(join(target, name === 'd' ? 'd/x' : 'f'), 'utf8'), 'theirs')
  }
})

test('a target that is a link is its user’s word; one that is a file is none', async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  await mkdir(join(folder, 'real'))
  await link('real', join(folder, 'link'))
  await writeFile(join(folder, 'file'), '')
  await restore(treeOf({ f: file('x') }), join(folder, 'link'))
  assert.equal(await readFile(join(folder, 'real', 'f'), 'utf8'), 'x')
  await assert.rejects(restore(treeOf({ f: file('x') }), join(folder, 'file')), hasCode('output-failed'))
  await link('nowhere', join(folder, 'dangling'))
  await assert.rejects(restore(treeOf({ f: file('x') }), join(folder, 'dangling')), hasCode('output-failed'))
})

test('a full disk stops the restore, which goes on when there is space', { skip: asRoot }, async t => {
  await using cleanup = new AsyncDisposableStack()
  const target = await scratch(cleanup)
  await run('mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', target)
  cleanup.defer(async () => void (await run('umount', target)))
  const bytes = patternBytes(MiB)
  const root = treeOf(Object.fromEntries(Array.from({ length: 8 }, (_, index) => [`f${index}`, file(bytes)])))
  const failure = await restore(root, target).catch(error => error)
  t.diagnostic(`4 MiB for 8: ${failure.message}`)
  assert.ok(isLifeboatError(failure, 'disk-full'))
  assert.match(failure.details.hint!, /goes on/)
  await run('mount', '-o', 'remount,size=20m', target)
  const copied = await restore(root, target)
  assert.ok(copied.resumed > 0 && copied.files < 8, `${copied.resumed} were there, ${copied.files} were not`)
  for (let index = 0; index < 8; index++) assert.ok((await readFile(join(target, `f${index}`))).equals(bytes))
})

test('two restores of the same into one folder do not meet', async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = await scratch(cleanup)
  const reading = Promise.withResolvers<void>()
  const go = Promise.withResolvers<void>()
  const reads: string[] = []
  const slow = watched(reads, 'f', patternBytes(10), async () => {
    if (reads.length > 1) return
    reading.resolve()
    await go.promise
  })
  const first = restore(folderOf(['f', slow]), target)
  await reading.promise
  await assert.rejects(restore(folderOf(['f', slow]), target), /Another run restores the same/)
  go.resolve()
  assert.equal((await first).files, 1)
})

test('a folder of that name that others may enter is not used', { skip: asRoot }, async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = await scratch(cleanup)
  const slow = watched([], 'f', patternBytes(10), async () => {
    throw new LifeboatError('store-unreachable', 'away')
  })
  await assert.rejects(restore(folderOf(['d', folderOf(['f', slow])]), target), /away/)
  const staging = join(target, (await readdir(target))[0]!)
  await chmod(staging, 0o777)
  await assert.rejects(restore(treeOf({}), target), /is not ours alone/)
  await chmod(staging, 0o700)
  await chown(staging, 65534, 65534)
  await assert.rejects(restore(treeOf({}), target), /is not ours alone/)
})

test('a damaged file is named and the rest comes; a store that is away ends it', async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  const failing = (error: Error) =>
    watched([], 'bad', patternBytes(3 * MiB), async () => {
      throw error
    })
  const rootWith = (error: Error) => folderOf(['bad', failing(error)], ['good', watched([], 'good', patternBytes(10))])
  const copied = await restore(rootWith(new LifeboatError('corrupt-object', 'chunk 7 is damaged')), join(folder, 'a'))
  assert.deepEqual(copied.problems.first, [
    { path: 'bad', kind: 'unreadable', reason: 'chunk 7 is damaged', code: 'corrupt-object' },
  ])
  assert.deepEqual(await readdir(join(folder, 'a')), ['good'])
  await assert.rejects(
    restore(rootWith(new LifeboatError('store-unreachable', 'away')), join(folder, 'b')),
    hasCode('store-unreachable'),
  )
})

test('a file with several names is read once', async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = await scratch(cleanup)
  const reads: string[] = []
  const node = watched(reads, 'f', patternBytes(5000))
  const linked: FileNode = { ...node, attributes: () => ({ ...node.attributes(), links: 50 }) }
  const names = Array.from({ length: 50 }, (_, index) => [`name${index}`, linked] as const)
  const copied = await restore(folderOf(...names), target)
  assert.deepEqual([copied.files, copied.hardLinks, reads.length], [1, 49, 1])
  assert.equal((await lstat(join(target, 'name7'))).nlink, 50)
})

test('many reads are under way, within bounds, and progress is told', { timeout: 120_000 }, async () => {
  await using cleanup = new AsyncDisposableStack()
  const target = await scratch(cleanup)
  let running = 0
  let most = 0
  const enough = Promise.withResolvers<void>()
  const untilMany = async () => {
    most = Math.max(most, ++running)
    // Those that are not held back have begun by then too.
    if (most > limits.copyReadsPerFile) setTimeout(enough.resolve, 100)
    await enough.promise
    running -= 1
  }
  const bytes = patternBytes(6 * MiB)
  const names = Array.from(
    { length: 10 },
    (_, index) => [`f${index}`, watched([], `f${index}`, bytes, untilMany)] as const,
  )
  const seen: CopyCounts[] = []
  await restore(folderOf(...names), target, { onProgress: counts => seen.push({ ...counts }) })
  assert.ok(most > limits.copyReadsPerFile && most <= limits.copyReadsInFlight, `${most} at once`)
  assert.equal(seen.at(-1)?.bytes, 60 * MiB)
  assert.ok(seen.every((counts, index) => counts.bytes >= (seen[index - 1]?.bytes ?? 0)))
})
