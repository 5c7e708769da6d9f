import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { GiB, limits, MiB } from '../../../src/core/limits.ts'
import type { CopyOptions } from '../../../src/files/copied.ts'
import type { FileNode, TreeNode } from '../../../src/files/file-tree.ts'
import { directory, file, memoryTree, sparseFile, special, symlink } from '../../../src/files/memory-tree.ts'
import { aclText } from '../../../src/files/posix-acl.ts'
import { writeTar } from '../../../src/files/tar.ts'
import { virtualFile } from '../../../src/files/virtual-node.ts'
import { directoryTree } from '../../doubles/directory-tree.ts'
import { device, fileOf, folderOf, linkTo, lying } from '../../doubles/hostile-tree.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { lacking, run } from '../../doubles/peer-tools.ts'
import { describeFolder, makeReferenceFolder } from '../../doubles/reference-folder.ts'

const asRoot = process.geteuid?.() === 0 ? false : 'needs root'

async function scratch(cleanup: AsyncDisposableStack): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-tar-'))
  cleanup.defer(() => rm(folder, { recursive: true }))
  return folder
}

async function tarOf(node: TreeNode, options: CopyOptions = {}, name = 't') {
  const pieces: Buffer[] = []
  const write = async (bytes: Uint8Array) => void pieces.push(Buffer.from(bytes))
  const copied = await writeTar([{ path: [name], node }], write, options)
  return {
    ...copied,
    bytes: Buffer.concat(pieces),
    told: copied.problems.first.map(each => `${each.path} ${each.kind} ${each.reason}`),
  }
}

/** As GNU tar lists it, in UTC. */
async function listed(folder: string, bytes: Uint8Array): Promise<string[]> {
  await writeFile(join(folder, 'x.tar'), bytes)
  const words = ['--utc', '--full-time', '--numeric-owner', '--quoting-style=escape', '-tvf', join(folder, 'x.tar')]
  return (await run('tar', ...words)).trimEnd().split('\n')
}

test('what GNU tar extracts is what was there', { skip: asRoot || lacking('python3', 'tar') }, async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  await makeReferenceFolder(join(folder, 'original'))
  await using tree = await directoryTree(join(folder, 'original'))
  const { bytes, told, ...counts } = await tarOf(tree.root, { setuid: true, devices: true })
  assert.deepEqual(told, [])
  assert.deepEqual([counts.files, counts.hardLinks, counts.others], [18, 2, 5])
  assert.ok(bytes.length < 20 * MiB, 'holes take no space')
  await mkdir(join(folder, 'out'))
  await writeFile(join(folder, 'x.tar'), bytes)
  const attributes = ['--acls', '--xattrs', '--xattrs-include=*', '--warning=no-timestamp']
  await run('tar', ...attributes, '-xpf', join(folder, 'x.tar'), '-C', join(folder, 'out'))
  assert.deepEqual(await describeFolder(join(folder, 'out', 't')), await describeFolder(join(folder, 'original')))
})

test('numbers and names that do not fit into ustar', { skip: lacking('tar') }, async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  const long = 'n'.repeat(200)
  const { root } = memoryTree({
    huge: sparseFile(100 * GiB, [{ offset: 99 * GiB, bytes: Buffer.from('data') }], {
      modifiedNs: 1_700_000_000_000_000_001n,
    }),
    owned: file('x', { uid: 2 ** 32 - 2, gid: 2_097_152, modifiedNs: 8_589_934_592_000_000_000n, permissions: 0o604 }),
    old: file('', { modifiedNs: -86_400_000_000_000n }),
    [long]: directory({ [long]: symlink(`${long}/${long}`) }),
    '\udcff': file(''),
  })
  const { bytes } = await tarOf(root)
  assert.ok(bytes.length < 20_000)
  const lines = (await listed(folder, bytes)).map(line => line.replace(/ +/g, ' '))
  assert.deepEqual(lines, [
    'drwxr-xr-x 0/0 0 1970-01-01 00:00:00 t/',
    `-rw-r--r-- 0/0 ${100 * GiB} 2023-11-14 22:13:20.000000001 t/huge`,
    '-rw----r-- 4294967294/2097152 1 2242-03-16 12:56:32 t/owned',
    '-rw-r--r-- 0/0 0 1969-12-31 00:00:00 t/old',
    `drwxr-xr-x 0/0 0 1970-01-01 00:00:00 t/${long}/`,
    `lrwxrwxrwx 0/0 0 1970-01-01 00:00:00 t/${long}/${long} -> ${long}/${long}`,
    '-rw-r--r-- 0/0 0 1970-01-01 00:00:00 t/\\377',
  ])
})

test('a tar has nothing that leads out of where it is extracted', { skip: lacking('tar') }, async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  const tree = folderOf(
    ['..', fileOf('x')],
    ['/etc/x', fileOf('x')],
    ['d', linkTo('/etc')],
    ['d', folderOf(['passwd', fileOf('x')])],
    ['disk', device(8, 0)],
    ['su', fileOf('x', { permissions: 0o6755, xattrs: { 'security.capability': Buffer.alloc(20) } })],
    ['size', lying(fileOf('x'), { size: 2 ** 63 })],
    ['nul', linkTo('a\0b')],
    ['socket', { ...device(0, 0), kind: 'socket' }],
  )
  const { bytes, told } = await tarOf(tree)
  assert.deepEqual(told.sort(), [
    't/.. refused this cannot be the name of a file',
    't//etc/x refused this cannot be the name of a file',
    't/d refused the directory has this name twice',
    't/disk left-out device node',
    't/nul refused a link cannot lead there',
    't/size unreadable a file cannot have 9223372036854776000 bytes',
    't/socket refused a tar has no sockets',
    't/su left-out capabilities',
    't/su left-out set-user-id or set-group-id',
  ])
  const names = (await listed(folder, bytes)).map(line => line.slice(0, 10) + line.replace(/.*:00/, ''))
  assert.deepEqual(names, ['drwxr-xr-x t/', 'lrwxrwxrwx t/d -> /etc', '-rwxr-xr-x t/su'])
  const sources = [
    { path: ['a'], node: linkTo('/etc') },
    { path: ['a', 'b'], node: fileOf('x') },
  ]
  await assert.rejects(
    writeTar(sources, async () => {}),
    error => isLifeboatError(error, 'usage'),
  )
})

interface Watched {
  running: number
  most: number
}

/** Contents that may fail from some offset on. */
function contents(size: number, watched: Watched, failsAt = Number.POSITIVE_INFINITY): FileNode {
  return virtualFile({
    tree: 'tar',
    inode: BigInt(size) * 1000n + BigInt(Math.min(failsAt, 999)),
    size,
    open: async () => ({
      size,
      blockSize: 4096,
      async readInto(target, offset) {
        watched.most = Math.max(watched.most, ++watched.running)
        await new Promise(resolve => setTimeout(resolve, 1))
        watched.running -= 1
        if (offset + target.length > failsAt) throw new LifeboatError('guest-filesystem', 'bad block')
        target.fill(0x61)
      },
      async *extents(range) {
        yield { ...range, kind: 'data' }
      },
      [Symbol.asyncDispose]: async () => {},
    }),
  })
}

test('a file that cannot be read on has zeros from there, and is named', { skip: lacking('tar') }, async () => {
  await using cleanup = new AsyncDisposableStack()
  const folder = await scratch(cleanup)
  const watched = { running: 0, most: 0 }
  const tree = folderOf(
    ['whole', contents(5 * MiB, watched)],
    ['half', contents(5 * MiB + 5, watched, 2 * MiB)],
    ['none', contents(9, watched, 0)],
    ['last', fileOf('last')],
  )
  const { bytes, told, problems } = await tarOf(tree)
  assert.deepEqual(told, [
    't/half unreadable bad block; after 2097152 of 5242885 bytes it has zeros',
    't/none unreadable bad block',
  ])
  assert.equal(problems.first[0]?.code, 'guest-filesystem')
  const lines = await listed(folder, bytes)
  assert.deepEqual(
    lines.map(line => line.split(' ').at(-1)),
    ['t/', 't/whole', 't/half', 't/last'],
  )
  await run('tar', '-xf', join(folder, 'x.tar'), '-C', folder)
  assert.equal((await run('tar', '-df', join(folder, 'x.tar'), '-C', folder)).trim(), '')
})

test('another name of a file whose first could not be read gets its contents', async () => {
  const watched = { running: 0, most: 0 }
  let fails = true
  const good = contents(5000, watched)
  const node: FileNode = {
    ...good,
    attributes: () => ({ ...good.attributes(), links: 2 }),
    open: async options => {
      if (!fails) return good.open(options)
      fails = false
      throw new LifeboatError('guest-filesystem', 'bad block')
    },
  }
  const { told, files, hardLinks } = await tarOf(folderOf(['a', node], ['b', node], ['c', node]))
  assert.deepEqual([told, files, hardLinks], [['t/a unreadable bad block'], 1, 1])
})

test('reads run ahead of a slow writer, within bounds', async () => {
  const watched = { running: 0, most: 0 }
  const tree = folderOf(
    ['large', contents(100 * MiB, watched)],
    ...Array.from({ length: 100 }, (_, index) => [`s${index}`, contents(MiB, watched)] as const),
  )
  const write = () => new Promise<void>(resolve => setTimeout(resolve, 2))
  const copied = await writeTar([{ path: ['t'], node: tree }], write)
  assert.equal(copied.bytes, 200 * MiB)
  assert.ok(
    watched.most > 8 && watched.most <= limits.copyFilesInFlight + limits.copyReadsPerFile,
    `${watched.most} at once`,
  )
})

test('what the writer says ends it, and so does the signal', async () => {
  const watched = { running: 0, most: 0 }
  const source = [{ path: ['t'], node: folderOf(['large', contents(20 * MiB, watched)]) }]
  await assert.rejects(
    writeTar(source, async () => {
      throw new Error('EPIPE')
    }),
    /EPIPE/,
  )
  assert.equal(watched.running, 0, 'no read goes on')
  const stopped = new AbortController()
  const writing = writeTar(source, async () => stopped.abort(new Error('Ctrl-C')), { signal: stopped.signal })
  await assert.rejects(writing, /Ctrl-C/)
})

test('the contents of a folder, without the folder', async () => {
  const pieces: Buffer[] = []
  const { root } = memoryTree({ a: file('1'), p: special('fifo') })
  await writeTar([{ path: [], node: root }], async bytes => void pieces.push(Buffer.from(bytes)))
  await using cleanup = new AsyncDisposableStack()
  const lines = await listed(await scratch(cleanup), Buffer.concat(pieces))
  assert.deepEqual(
    lines.map(line => line.split(' ').at(-1)),
    ['./', 'a', 'p'],
  )
})

test('ACLs are read as the kernel writes them; what is none is no text', () => {
  const bytes = (...entries: number[][]) => {
    const acl = Buffer.alloc(4 + entries.length * 8)
    acl.writeUInt32LE(2, 0)
    entries.forEach(([tag, permissions, id], index) => {
      acl.writeUInt16LE(tag!, 4 + index * 8)
      acl.writeUInt16LE(permissions!, 6 + index * 8)
      acl.writeUInt32LE(id!, 8 + index * 8)
    })
    return acl
  }
  const nobody = 2 ** 32 - 1
  assert.equal(
    aclText(bytes([1, 7, nobody], [2, 5, 1000], [4, 4, nobody], [8, 0, 50], [16, 1, nobody], [32, 2, nobody])),
    'user::rwx,user:1000:r-x,group::r--,group:50:---,mask::--x,other::-w-',
  )
  for (const wrong of [
    Buffer.alloc(0),
    Buffer.alloc(4),
    patternBytes(12),
    bytes([3, 7, 0]),
    bytes([1, 8, 0]),
    bytes([1, 7, 0]).subarray(0, 11),
  ])
    assert.equal(aclText(wrong), undefined, wrong.toString('hex'))
})
