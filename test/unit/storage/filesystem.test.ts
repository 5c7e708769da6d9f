import assert from 'node:assert/strict'
import { link, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, suite, test } from 'node:test'
import { type ErrorCode, isLifeboatError } from '../../../src/core/errors.ts'
import { type Files, nodeFiles } from '../../../src/storage/files.ts'
import { filesystemStore } from '../../../src/storage/filesystem.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { loggedFiles } from '../../doubles/logged-files.ts'

const bytes = new Uint8Array(5_000).fill(7)
const keysOf = async (store: ObjectStore, prefix = ''): Promise<string[]> =>
  (await Array.fromAsync(store.list(prefix))).map(({ key }) => key)
const hasCode =
  (code: ErrorCode, retry = 'permanent') =>
  (error: unknown) =>
    isLifeboatError(error, code) && error.retry === retry
const systemError = (code: string): Error => Object.assign(new Error(`${code}: injected`), { code })

suite('directory store', () => {
  let root = ''
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'lifeboat-directory-'))
  })
  afterEach(() => rm(root, { recursive: true, force: true }))

  test('files and folders are for the owner alone', async () => {
    await filesystemStore(root).put('packs/ab/one', [bytes])
    assert.equal((await stat(join(root, 'packs/ab/one'))).mode & 0o777, 0o600)
    assert.equal((await stat(join(root, 'packs'))).mode & 0o777, 0o700)
    assert.equal((await stat(join(root, 'packs/ab'))).mode & 0o777, 0o700)
  })

  test('an object is synced before it gets its name, and its folder and every new folder after', async () => {
    const log: string[] = []
    const store = filesystemStore(root, { files: loggedFiles(nodeFiles, root, log) })
    await store.put('packs/ab/one', [bytes])
    assert.deepEqual(log, [
      'mkdir packs',
      'sync .',
      'mkdir packs/ab',
      'sync packs',
      'create packs/ab/.tmp',
      'write packs/ab/.tmp',
      'fsync packs/ab/.tmp',
      'rename packs/ab/.tmp packs/ab/one',
      'sync packs/ab',
    ])
    log.length = 0
    await store.put('packs/ab/two', [bytes], { ifAbsent: true })
    assert.deepEqual(log, [
      'create packs/ab/.tmp',
      'write packs/ab/.tmp',
      'fsync packs/ab/.tmp',
      'link packs/ab/.tmp packs/ab/two',
      'unlink packs/ab/.tmp',
      'sync packs/ab',
    ])
    log.length = 0
    await store.delete(['packs/ab/one', 'packs/ab/two', 'packs/ab/three'])
    assert.deepEqual(log.slice(0, 2).sort(), ['unlink packs/ab/one', 'unlink packs/ab/two'])
    assert.deepEqual(log.slice(2), ['sync packs/ab'])
  })

  test('a folder that another writer may not have synced yet is synced before it is used', async () => {
    await mkdir(join(root, 'packs'))
    const log: string[] = []
    await filesystemStore(root, { files: loggedFiles(nodeFiles, root, log) }).put('packs/one', [bytes])
    assert.deepEqual(log.slice(0, 2), ['sync .', 'create packs/.tmp'])
  })

  test('a full or forbidden disk is told apart, and leaves nothing behind', async () => {
    const rows: [string, ErrorCode, string][] = [
      ['ENOSPC', 'store-full', 'permanent'],
      ['EDQUOT', 'store-full', 'permanent'],
      ['EACCES', 'store-denied', 'permanent'],
      ['EROFS', 'store-denied', 'permanent'],
      ['EIO', 'store-failed', 'permanent'],
      ['ESTALE', 'store-unreachable', 'transient'],
      ['EMFILE', 'store-throttled', 'transient'],
    ]
    for (const [system, code, retry] of rows)
      for (const step of ['append', 'sync', 'rename', 'syncFolder'] as const) {
        const store = filesystemStore(root, { files: failing(step, system) })
        await mkdir(join(root, 'a'), { recursive: true })
        await assert.rejects(store.put('a/x', [bytes]), hasCode(code, retry), `${system} at ${step}`)
        assert.deepEqual(
          (await readdir(join(root, 'a'))).filter(name => name.startsWith('.tmp-')),
          [],
        )
        await rm(join(root, 'a'), { recursive: true })
      }
  })

  test('a folder or file that cannot be read is an error and never looks empty', async () => {
    const store = filesystemStore(root)
    await store.put('packs/ab/one', [bytes])
    await store.put('packs/cd/two', [bytes])
    const forbid = (): string => {
      throw systemError('EACCES')
    }
    const denied: Files = {
      ...nodeFiles,
      entries: path => nodeFiles.entries(path.includes('/cd') ? forbid() : path),
    }
    await assert.rejects(keysOf(filesystemStore(root, { files: denied }), 'packs/'), hasCode('store-denied'))
    const broken: Files = {
      ...nodeFiles,
      linkStatus: async path => {
        if (path.endsWith('two')) throw systemError('EIO')
        return nodeFiles.linkStatus(path)
      },
    }
    await assert.rejects(keysOf(filesystemStore(root, { files: broken })), hasCode('store-failed'))
    await assert.rejects(filesystemStore(root, { files: broken }).head('packs/cd/two'), hasCode('store-failed'))
  })

  test('a root that vanishes or is replaced while in use is unreachable, not empty, and is not made anew', async () => {
    const path = join(root, 'mounted')
    await mkdir(path)
    const store = filesystemStore(path, { create: true })
    await store.put('packs/one', [bytes])
    const calls = [
      () => store.get('packs/one'),
      () => store.head('packs/one'),
      () => keysOf(store),
      () => store.put('packs/two', [bytes]),
      () => store.delete(['packs/one']),
      () => store.now(),
    ]
    await rename(path, join(root, 'elsewhere'))
    for (const call of calls) await assert.rejects(call(), hasCode('store-unreachable', 'transient'))
    await mkdir(path)
    for (const call of calls.slice(0, 4)) await assert.rejects(call(), hasCode('store-unreachable', 'transient'))
    assert.deepEqual(await readdir(path), [])
    await rm(path, { recursive: true })
    await rename(join(root, 'elsewhere'), path)
    assert.deepEqual(await store.get('packs/one'), bytes)
  })

  test('a root that goes away in the middle of a listing breaks the listing', async () => {
    const path = join(root, 'mounted')
    await mkdir(path)
    const store = filesystemStore(path)
    for (const key of ['a/1', 'b/1', 'c/1']) await store.put(key, [bytes])
    const listing = (async () => {
      for await (const { key } of store.list('')) if (key === 'a/1') await rename(path, join(root, 'elsewhere'))
    })()
    await assert.rejects(listing, hasCode('store-unreachable', 'transient'))
  })

  test('links lead nowhere: not to read, not to write, and a listing does not pass over them', async () => {
    const outside = join(root, 'outside')
    const path = join(root, 'repository')
    await mkdir(outside)
    await mkdir(path)
    await writeFile(join(outside, 'secret'), 'secret')
    await symlink(outside, join(path, 'packs'))
    await symlink(join(outside, 'secret'), join(path, 'config'))
    const store = filesystemStore(path)
    await assert.rejects(store.get('config'), hasCode('store-denied'))
    await assert.rejects(store.put('packs/one', [bytes]), hasCode('store-denied'))
    await assert.rejects(keysOf(store), hasCode('store-failed'))
    await store.put('config', [bytes])
    assert.equal(await readFile(join(outside, 'secret'), 'utf8'), 'secret')
    assert.deepEqual(await store.get('config'), bytes)
    assert.deepEqual(await readdir(outside), ['secret'])
  })

  test('leftovers of killed writers are not listed, and removed once they are old', async () => {
    const store = filesystemStore(root)
    await store.put('packs/one', [bytes])
    const old = join(root, 'packs/.tmp-00')
    const young = join(root, 'packs/.tmp-11')
    for (const path of [old, young]) await writeFile(path, 'half')
    const longAgo = new Date(Date.now() - 25 * 3_600_000)
    await utimes(old, longAgo, longAgo)
    assert.deepEqual(await keysOf(store), ['packs/one'])
    await filesystemStore(root).put('packs/two', [bytes])
    assert.deepEqual((await readdir(join(root, 'packs'))).sort(), ['.tmp-11', 'one', 'two'])
  })

  test('a folder removed by hand is made again', async () => {
    const store = filesystemStore(root)
    await store.put('packs/ab/one', [bytes])
    await rm(join(root, 'packs'), { recursive: true })
    await store.put('packs/ab/two', [bytes])
    assert.deepEqual(await keysOf(store), ['packs/ab/two'])
  })

  test('ifAbsent works, less strictly, where there are no hard links', async () => {
    const store = filesystemStore(root, { files: failing('link', 'EPERM') })
    await store.put('lease', [bytes], { ifAbsent: true })
    await assert.rejects(store.put('lease', [bytes], { ifAbsent: true }), hasCode('store-conflict'))
    assert.deepEqual(await readdir(root), ['lease'])
  })

  test('a file that is larger than any object of a repository is refused before memory is taken', async () => {
    const store = filesystemStore(root)
    await store.put('pack', [bytes])
    const files: Files = {
      ...nodeFiles,
      openForReading: async path => {
        const file = await nodeFiles.openForReading(path)
        return { ...file, status: async () => ({ ...(await file.status()), size: 2 ** 50 }) }
      },
    }
    const huge = filesystemStore(root, { files })
    await assert.rejects(huge.get('pack'), hasCode('absurd-object'))
    await assert.rejects(huge.get('pack', { offset: 0, length: 2 ** 40 }), hasCode('absurd-object'))
    assert.equal((await huge.get('pack', { offset: 0, length: 10 })).length, 10)
    await assert.rejects(huge.get('pack', { offset: 4_990, length: 20 }), hasCode('store-unreachable', 'transient'))
  })

  test('a hard link elsewhere keeps the old bytes: nothing is changed in place', async () => {
    const store = filesystemStore(root)
    await store.put('config', [bytes])
    await link(join(root, 'config'), join(root, 'kept'))
    await store.put('config', [new Uint8Array(3)])
    assert.deepEqual(new Uint8Array(await readFile(join(root, 'kept'))), bytes)
  })

  test('a lock that nobody keeps is not promised', async () => {
    const retainUntil = new Date('2030-01-01')
    await assert.rejects(filesystemStore(root).put('a', [bytes], { retainUntil }), hasCode('store-failed'))
  })
})

/** Node's files, of which one operation always fails; on a file only after it was opened for writing. */
function failing(step: 'append' | 'sync' | 'rename' | 'link' | 'syncFolder', code: string): Files {
  const fail = async () => {
    throw systemError(code)
  }
  if (step === 'rename' || step === 'link' || step === 'syncFolder') return { ...nodeFiles, [step]: fail }
  return {
    ...nodeFiles,
    createForWriting: async (path, mode) => ({ ...(await nodeFiles.createForWriting(path, mode)), [step]: fail }),
  }
}
