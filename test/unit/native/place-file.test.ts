import assert from 'node:assert/strict'
import { lstat, mkdtemp, open, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { xattrsOf } from '../../../src/native/file-attributes.ts'
import { loadAddon } from '../../../src/native/native.ts'
import { type Part, placeFile } from '../../../src/native/place-file.ts'

const [uid, gid] = [process.getuid!(), process.getgid!()]
const plain = { uid, gid, mode: 0o640, accessedNs: -1n, modifiedNs: 1_700_000_000_123_456_789n, xattrs: new Map() }

async function folderFor(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-place-'))
  t.after(() => rm(folder, { recursive: true }))
  const at = (name: string) => Buffer.from(join(folder, name))
  const make = (contents: string, { to = 'file', replaces = false, dress = plain } = {}) =>
    placeFile({ path: at('part'), contents: Buffer.from(contents) }, dress, at(to), { replaces })
  return { at, make, names: async () => (await readdir(folder)).sort() }
}

test('a file is there with all that it has, and its part is not', async t => {
  const { at, make, names } = await folderFor(t)
  const xattrs = new Map([[Buffer.from('user.note'), Buffer.from('kept')]])
  assert.equal(await make('contents', { dress: { ...plain, xattrs } }), undefined)
  assert.deepEqual(await names(), ['file'])
  const { mode, atimeNs, mtimeNs } = await lstat(at('file'), { bigint: true })
  assert.deepEqual([mode & 0o7777n, atimeNs, mtimeNs], [0o640n, -1n, plain.modifiedNs])
  assert.equal(await readFile(at('file'), 'utf8'), 'contents')
  assert.deepEqual(
    (await xattrsOf(at('file'))).map(({ value }) => Buffer.from(value).toString()),
    ['kept'],
  )
})

test('a part that is open keeps what was written, and gets its name', async t => {
  const { at, names } = await folderFor(t)
  await using file = await open(at('part'), 'wx')
  await file.write('written before')
  assert.equal(await placeFile({ path: at('part'), file }, plain, at('file'), { replaces: false }), undefined)
  assert.deepEqual([await names(), await readFile(at('file'), 'utf8')], [['file'], 'written before'])
})

test('a name that is taken stays what it was, unless it may be replaced', async t => {
  const { at, make } = await folderFor(t)
  await symlink('elsewhere', at('file'))
  const failed = await make('new')
  assert.deepEqual([failed?.step, failed?.error.message], ['name', "the file's name: EEXIST"])
  assert.ok((await lstat(at('file'))).isSymbolicLink())
  await rm(at('part'))
  assert.equal(await make('new', { replaces: true }), undefined)
  assert.equal(await readFile(at('file'), 'utf8'), 'new')
})

test('a link in the place of the part is not followed', async t => {
  const { at, make, names } = await folderFor(t)
  await writeFile(at('victim'), 'as it was')
  await symlink('victim', at('part'))
  assert.equal((await make('overwritten'))?.step, 'contents')
  assert.deepEqual([await names(), await readFile(at('victim'), 'utf8')], [['part', 'victim'], 'as it was'])
})

test('what lacks an attribute gets no name', async t => {
  const { make, names } = await folderFor(t)
  const xattrs = new Map([[Buffer.from('nonsense'), Buffer.from('')]])
  const failed = await make('contents', { dress: { ...plain, xattrs } })
  assert.deepEqual([failed?.step, await names()], ['attributes', ['part']])
})

test('a closed part, and bytes that are no attributes, are refused', async t => {
  const { at } = await folderFor(t)
  const closed: Part = { path: at('part'), file: { fd: -1 } }
  await assert.rejects(placeFile(closed, plain, at('file'), { replaces: false }), RangeError)
  const empty = new Uint8Array()
  for (const xattrs of [Buffer.of(1), Buffer.of(2, 0, 0, 0, 1), Buffer.of(0, 0, 0, 0, 255, 255, 255, 255)])
    assert.throws(() => loadAddon().placeFile(at('part'), empty, 0, new Uint8Array(48), xattrs, at('file')), RangeError)
})
