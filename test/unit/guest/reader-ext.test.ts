/** ext2, ext3 and ext4 without a VM: what their own tools wrote, read by the sandboxed process. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import type { DirectoryNode, TreeNode } from '../../../src/files/file-tree.ts'
import { contentOf, entriesOf } from '../../contract/file-tree-contract.ts'
import { type ExtImage, extImage } from '../../doubles/ext-image.ts'
import { openedReader } from '../../doubles/opened-reader.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { writeTree } from '../../doubles/written-sample.ts'

async function withRoot<T>(image: ExtImage, work: (root: DirectoryNode) => Promise<T>): Promise<T> {
  await using opened = await openedReader(image.path)
  return await work((await opened.guests.open('vda-whole')).root)
}

async function fileAt(root: DirectoryNode, name: string): Promise<TreeNode> {
  const node = await root.lookup(name)
  assert.ok(node, name)
  return node
}

const CONTENT = patternBytes(300_000, 11)
const blockSizes = {
  'ext2, 1 KiB': ['-b', '1024', '-O', '^has_journal,^extent,^64bit,^metadata_csum'],
  ext3: ['-O', '^extent,^64bit,^metadata_csum'],
}
const layouts: Readonly<Record<string, readonly string[]>> = {
  ...blockSizes,
  'inodes of 128 bytes': ['-I', '128', '-O', '^metadata_csum'],
  'inline data': ['-O', 'inline_data'],
  bigalloc: ['-O', 'bigalloc', '-C', '16384'],
  '64 KiB of blocks in a group': ['-g', '1024', '-b', '1024'],
  'large extended attributes': ['-O', 'ea_inode', '-I', '256'],
}

for (const [name, options] of Object.entries(layouts))
  test(`${name}: files large, small and sparse, links short and long`, async () => {
    const from = await mkdtemp(join(tmpdir(), 'reader-layout-'))
    await writeTree(from, {
      large: { kind: 'file', size: CONTENT.length, parts: [{ offset: 0, bytes: CONTENT }] },
      tiny: { kind: 'file', size: 5, parts: [{ offset: 0, bytes: Buffer.from('tiny\n') }] },
      sparse: { kind: 'file', size: 3_000_000, parts: [{ offset: 2_000_000, bytes: CONTENT.subarray(0, 5000) }] },
      short: { kind: 'symlink', target: 'tiny' },
      long: { kind: 'symlink', target: 'x'.repeat(200) },
    })
    await using image = await extImage(16_384, { folder: from, options })
    await rm(from, { recursive: true })
    await withRoot(image, async root => {
      const large = await fileAt(root, 'large')
      assert.ok(large.kind === 'file' && (await contentOf(large)).equals(CONTENT))
      const tiny = await fileAt(root, 'tiny')
      assert.ok(tiny.kind === 'file' && (await contentOf(tiny)).toString() === 'tiny\n')
      // mke2fs cuts such a file short where data may be inline.
      if (name !== 'inline data') await checkSparse(root)
      const targets = []
      for (const each of ['short', 'long']) {
        const link = await fileAt(root, each)
        targets.push(link.kind === 'symlink' && (await link.readLink()))
      }
      assert.deepEqual(targets, ['tiny', 'x'.repeat(200)])
    })
  })

async function checkSparse(root: DirectoryNode): Promise<void> {
  const sparse = await fileAt(root, 'sparse')
  assert.ok(sparse.kind === 'file')
  const whole = Buffer.alloc(3_000_000)
  CONTENT.copy(whole, 2_000_000, 0, 5000)
  assert.ok((await contentOf(sparse)).equals(whole))
  assert.ok(sparse.attributes().allocated < 100_000, `${sparse.attributes().allocated}`)
  await using reader = await sparse.open()
  const extents = await Array.fromAsync(reader.extents({ offset: 0, length: whole.length }))
  assert.deepEqual([extents[0]?.kind, extents.some(extent => extent.kind === 'data')], ['zero', true])
}

test('owners, modes, devices, times to the nanosecond and extended attributes are those of the disk', async () => {
  await using image = await extImage(8192, { options: ['-O', 'ea_inode', '-b', '1024'] })
  const value = patternBytes(1024, 5)
  const valueFile = `${image.path}.value`
  await writeFile(valueFile, value)
  await image.debugfs(
    ...['mknod old c 4 64', 'mknod new b 259 60000', 'mknod pipe p', `write ${valueFile} file`],
    ...['sif file uid 70000', 'sif file gid 4000000000', 'sif file mode 0104755'],
    // Bits 0 and 1 widen the seconds: 2446 and 1901.
    ...[
      'sif file mtime 0x0',
      'sif file mtime_extra 0x00000005',
      'sif file atime 0x80000000',
      'sif file atime_extra 0xee6b27fc',
    ],
    ...['sif file crtime @981173106', `sif file crtime_extra ${123_456_789 * 4}`],
    ...['ea_set file user.small value', `ea_set -f ${valueFile} file user.large`, 'ea_set file trusted.t x'],
    `ea_set file security.capability ${'\\001\\000\\000\\002\\000\\040\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000'}`,
  )
  await withRoot(image, async root => {
    const file = await fileAt(root, 'file')
    const { uid, gid, permissions, modifiedNs, accessedNs, bornNs, size } = file.attributes()
    assert.deepEqual(
      { uid, gid, permissions, size },
      { uid: 70_000, gid: 4_000_000_000, permissions: 0o4755, size: 1024 },
    )
    assert.equal(modifiedNs, 2n ** 32n * 1_000_000_000n + 1n)
    assert.equal(accessedNs, -(2n ** 31n) * 1_000_000_000n + 999_999_999n)
    assert.equal(bornNs, 981_173_106_123_456_789n)
    const xattrs = await file.xattrs()
    assert.equal(Buffer.from(xattrs.get('user.small') ?? '').toString(), 'value')
    assert.ok(Buffer.from(xattrs.get('user.large') ?? '').equals(value), 'an attribute in an inode of its own')
    assert.equal(Buffer.from(xattrs.get('trusted.t') ?? '').toString(), 'x')
    assert.equal(xattrs.get('security.capability')?.length, 20)
    assert.deepEqual((await fileAt(root, 'old')).attributes().device, { major: 4, minor: 64 })
    assert.deepEqual((await fileAt(root, 'new')).attributes().device, { major: 259, minor: 60_000 })
    assert.equal((await fileAt(root, 'pipe')).kind, 'fifo')
  })
})

test('an access control list comes as getxattr gives it', async () => {
  const from = await mkdtemp(join(tmpdir(), 'reader-acl-'))
  await writeFile(join(from, 'file'), 'x', { mode: 0o644 })
  execFileSync('setfattr', ['-n', 'system.posix_acl_access', '-v', `0x${ACL}`, join(from, 'file')])
  await using image = await extImage(4096, { folder: from })
  await rm(from, { recursive: true })
  await withRoot(image, async root => {
    const list = (await (await fileAt(root, 'file')).xattrs()).get('system.posix_acl_access')
    assert.equal(Buffer.from(list ?? '').toString('hex'), ACL)
  })
})

const ACL =
  '02000000' + '01000600ffffffff' + '02000400b3150000' + '04000400ffffffff' + '10000400ffffffff' + '20000400ffffffff'

test('an encrypted folder says so, and what is beside it can be read', async () => {
  await using image = await extImage(4096, { options: ['-O', 'encrypt'] })
  await image.debugfs('mkdir secret', 'mkdir plain', 'sif secret flags 0x80800')
  await withRoot(image, async root => {
    const secret = await fileAt(root, 'secret')
    assert.ok(secret.kind === 'directory')
    await assert.rejects(entriesOf(secret), error => {
      assert.ok(isLifeboatError(error, 'guest-filesystem'))
      assert.match(error.message, /encrypted .*boot the point/)
      return true
    })
    const plain = await fileAt(root, 'plain')
    assert.deepEqual(plain.kind === 'directory' && (await entriesOf(plain)), [])
  })
})

test('a journal that has to be replayed is left to the appliance', async () => {
  await using image = await extImage(8192)
  await image.debugfs('feature needs_recovery')
  await using opened = await openedReader(image.path)
  const [volume] = await opened.guests.volumes()
  assert.deepEqual(
    { state: volume?.state, needs: volume?.needs, type: volume?.type },
    { state: 'unsupported', needs: 'appliance', type: 'ext4' },
  )
  assert.match(volume?.reason ?? '', /journal has to be replayed; it needs the appliance/)
  await assert.rejects(opened.guests.open('vda-whole'), error => isLifeboatError(error, 'guest-filesystem'))
})

test('folders that contain each other have an end', async () => {
  await using image = await extImage(4096)
  await image.debugfs('mkdir a', 'mkdir a/b', 'link a a/b/again', 'sif a links_count 3')
  await withRoot(image, async root => {
    const a = await fileAt(root, 'a')
    assert.ok(a.kind === 'directory')
    const b = await a.lookup('b')
    assert.ok(b?.kind === 'directory')
    await assert.rejects(b.lookup('again'), error => {
      assert.ok(isLifeboatError(error, 'guest-filesystem'))
      assert.match(error.message, /inside of itself/)
      return true
    })
  })
})
