/** `files get` over a real repository, its guests in memory: where things go, what is refused, and how it ends. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { lstat, mkdir, readdir, readFile, readlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, suite, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { LifeboatError } from '../../src/core/errors.ts'
import type { DirectoryNode, TreeNode } from '../../src/files/file-tree.ts'
import { directory, file, special, symlink } from '../../src/files/memory-tree.ts'
import { type Answer, type CommandLine, commandLine } from '../doubles/command-line.ts'
import { guestDisk, type MemoryVolume, memoryGuests } from '../doubles/memory-guest.ts'

const web: readonly MemoryVolume[] = [
  {
    name: 'vda-p1',
    disk: 'vda',
    entries: {
      etc: directory({ hosts: file('127.0.0.1 here\n', { permissions: 0o640 }), link: symlink('/etc/passwd') }),
      other: directory({ hosts: file('others\n') }),
      srv: directory({
        a: directory({ 'one.sql': file('1'), 'note.txt': file('n') }),
        b: directory({ 'two.sql': file('2'), deep: directory({ 'three.sql': file('3') }) }),
      }),
      big: file(Buffer.alloc(3 << 20, 7)),
      many: directory({ early: file('first'), later: file('second') }),
      tool: file('#!', { permissions: 0o4755 }),
      dev: directory({ null: special('character-device', { device: { major: 1, minor: 3 } }), ok: file('ok') }),
    },
  },
]
const hostile: readonly MemoryVolume[] = [
  {
    name: 'vda-p1',
    disk: 'vda',
    entries: { home: directory({ good: file('good'), outside: symlink('../../../..') }) },
  },
]

// As another user owners are not set, which is told: test/integration/files-ext4.test.ts.
const skip = process.getuid?.() === 0 ? false : 'needs root, so that owners can be set'

suite('getting files out of guests', { skip }, () => {
  let cli: CommandLine
  const guests = memoryGuests({ web, hostile }, (tree, volume) => ({ ...tree, root: withEvilNames(tree.root, volume) }))

  before(async () => {
    cli = commandLine({}, { guests: { reader: guests.open } })
    cli.environment.LIFEBOAT_REPO = cli.at('repo')
    cli.environment.LIFEBOAT_KEY_FILE = cli.at('key')
    assert.equal((await cli.run('init')).code, 0)
    for (const vm of ['web', 'hostile']) {
      await writeFile(cli.at('vda.raw'), guestDisk(vm))
      assert.equal((await cli.run(`backup ${vm} --image vda=${cli.at('vda.raw')}`)).code, 0)
    }
  })
  after(async () => {
    await cli[Symbol.asyncDispose]()
  })

  test('each path goes below the output by its last name, of a root what is in it', async () => {
    const { json } = await ended(cli.json(`files get web@latest:/etc web@latest:/big --output ${cli.at('out')}`), 0)
    assert.deepEqual(await filesBelow(cli.at('out')), ['big', 'etc', 'etc/hosts', 'etc/link'])
    assert.equal(await readFile(cli.at('out', 'etc/hosts'), 'utf8'), '127.0.0.1 here\n')
    assert.equal((await lstat(cli.at('out', 'etc/hosts'))).mode & 0o777, 0o640)
    assert.equal(await readlink(cli.at('out', 'etc/link')), '/etc/passwd')
    const { files, bytes, entries } = json as Document
    assert.deepEqual([files, bytes, entries.length], [2, (3 << 20) + 15, 2])
    assert.deepEqual([entries[0]?.name, entries[0]?.output], ['etc', cli.at('out', 'etc')])

    await ended(cli.json(`files get web@latest/vda:/srv/ --output ${cli.at('one')}`), 0)
    assert.deepEqual((await filesBelow(cli.at('one'))).slice(0, 3), ['srv', 'srv/a', 'srv/a/note.txt'])
  })

  test('what a pattern matches goes below the output from its first star on', async () => {
    await ended(cli.json(`files get web@latest:/srv/**/*.sql --output ${cli.at('sql')}`), 0)
    const found = (await filesBelow(cli.at('sql'))).filter(name => name.endsWith('.sql'))
    assert.deepEqual(found, ['a/one.sql', 'b/deep/three.sql', 'b/two.sql'])
    await ended(cli.json(`files get web@latest:/s* --output ${cli.at('star')}`), 0)
    assert.deepEqual((await filesBelow(cli.at('star'))).length, 8, 'a directory that matches comes whole, and once')
  })

  test('one file comes to stdout as its bytes, more as a tar', async () => {
    const one = await ended(cli.run('files get web@latest:/etc/hosts --output -'), 0)
    assert.equal(one.stdout, '127.0.0.1 here\n')
    const big = await ended(cli.run('files get web@latest:/big --output -'), 0)
    assert.equal(big.stdout, '\x07'.repeat(3 << 20))
    await ended(cli.json('files get web@latest:/etc/hosts --output -'), 2, 'usage')
    for (const words of ['web@latest:/etc/hosts --format tar', 'web@latest:/etc']) {
      const { stdout } = await ended(cli.run(`files get ${words} --output -`), 0)
      await writeFile(cli.at('piped.tar'), stdout)
      const names = execFileSync('tar', ['-tf', cli.at('piped.tar')], { encoding: 'utf8' })
        .trim()
        .split('\n')
      assert.deepEqual(names, words.includes('hosts') ? ['hosts'] : ['etc/', 'etc/hosts', 'etc/link'])
    }
  })

  test('a name that ends with .tar is a tar, which appears when it is whole', async () => {
    const target = cli.at('etc.tar')
    await ended(cli.json(`files get web@latest:/etc --output ${target}`), 0)
    assert.match(execFileSync('tar', ['-tvf', target], { encoding: 'utf8' }), /-rw-r----- .* etc\/hosts/)
    assert.equal(execFileSync('tar', ['-xOf', target, 'etc/hosts'], { encoding: 'utf8' }), '127.0.0.1 here\n')
    await ended(cli.json(`files get web@latest:/etc --output ${target}`), 2, 'output-exists')
    await ended(cli.json(`files get web@latest:/srv --output ${target} --force`), 0)
    assert.match(execFileSync('tar', ['-tf', target], { encoding: 'utf8' }), /^srv\//)
    await ended(cli.json(`files get web@latest:/etc --output ${cli.at('no', 'folder.tar')}`), 1, 'output-failed')
    assert.deepEqual(
      (await readdir(cli.dir)).filter(name => name.endsWith('.part')),
      [],
    )
  })

  test('what is there already is not touched without --force', async () => {
    const out = cli.at('kept')
    await mkdir(out)
    await writeFile(path.join(out, 'hosts'), 'mine')
    await ended(cli.json(`files get web@latest:/etc/hosts --output ${out}`), 2, 'output-exists')
    assert.equal(await readFile(path.join(out, 'hosts'), 'utf8'), 'mine')
    await ended(cli.json(`files get web@latest:/etc/hosts --output ${out} --force`), 0)
    assert.equal(await readFile(path.join(out, 'hosts'), 'utf8'), '127.0.0.1 here\n')
    await ended(cli.json(`files get web@latest:/etc/hosts --output ${path.join(out, 'hosts')}`), 2, 'output-exists')
  })

  test('what an interrupted call left is gone on with, and nothing is seen before it is whole', async () => {
    const words = `files get web@latest:/many --output ${cli.at('resumed')}`
    isStoreAway = true
    await ended(cli.json(words), 1, 'store-unreachable')
    isStoreAway = false
    assert.equal(existsSync(cli.at('resumed', 'many')), false)
    const { json } = await ended(cli.json(words), 0)
    const { files, resumed } = json as Document
    console.log(`the store was away: 1 time; resumed ${resumed} files, got ${files}`)
    assert.deepEqual([resumed, files], [1, 1])
    assert.deepEqual(await filesBelow(cli.at('resumed')), ['many', 'many/early', 'many/later'])
  })

  test('setuid and devices come only when they are asked for, and what was left out is named', async () => {
    const bare = await ended(cli.json(`files get web@latest:/tool web@latest:/dev --output ${cli.at('bare')}`), 3)
    assert.deepEqual(await filesBelow(cli.at('bare')), ['dev', 'dev/ok', 'tool'])
    assert.equal((await lstat(cli.at('bare', 'tool'))).mode & 0o7777, 0o755)
    assert.deepEqual(kinds(bare), ['left-out dev/null', 'left-out tool'])
    assert.match(bare.stderr, /warning: tool: /)
    await ended(cli.json(`files get web@latest:/tool --setuid --output ${cli.at('whole')}`), 0)
    assert.equal((await lstat(cli.at('whole', 'tool'))).mode & 0o7777, 0o4755)
  })

  test('nothing of a hostile guest lands outside the output: it is listed, and the exit code is 3', async () => {
    const outside = await readdir(cli.dir)
    const out = cli.at('hostile')
    const answer = await ended(cli.json(`files get hostile@latest:/ --output ${out}`), 3)
    assert.deepEqual(await filesBelow(out), ['home', 'home/good', 'home/outside'])
    const refused = kinds(answer).filter(kind => kind.startsWith('refused'))
    console.log(`injected ${EVIL.length} names, refused: ${refused.join(', ')}`)
    assert.equal(refused.length, EVIL.length)
    assert.equal((answer.json as Document).problemCount, EVIL.length)
    assert.deepEqual(
      (await readdir(cli.dir)).filter(name => !outside.includes(name)),
      ['hostile'],
    )
    const tar = await ended(cli.json(`files get hostile@latest:/home --output ${cli.at('h.tar')}`), 3)
    assert.equal(kinds(tar).length, EVIL.length)
    const names = execFileSync('tar', ['-tf', cli.at('h.tar')], { encoding: 'utf8' })
      .trim()
      .split('\n')
    assert.deepEqual(names, ['home/', 'home/good', 'home/outside'])
  })

  test('wrong words are told before anything is written', async () => {
    const out = cli.at('never')
    await ended(cli.json(`files get web@latest:/etc web@latest:/absent --output ${out}`), 2, 'no-such-file')
    await ended(cli.json(`files get web@latest:/etc/hosts web@latest:/other/hosts --output ${out}`), 2, 'usage')
    await ended(cli.json(`files get web@latest:/etc web@latest~1:/etc --output ${out}`), 2, 'usage')
    await ended(cli.json('files get web@latest:/etc'), 2, 'usage')
    await ended(cli.json(`files get web@latest:/etc --output ${out} --format zip`), 2, 'usage')
    assert.equal((await readdir(cli.dir)).includes('never'), false)
  })
})

let isStoreAway = false

/** Its contents come late, so that what is beside it is there by then, and not at all while the store is away. */
const late = (node: TreeNode): TreeNode =>
  node.kind === 'file'
    ? {
        ...node,
        async open(options) {
          await sleep(200)
          if (isStoreAway) throw new LifeboatError('store-unreachable', 'the store is away')
          return await node.open(options)
        },
      }
    : node

const EVIL = ['..', '.', '', '../escaped', '/etc/cron.d/evil', 'a\0b']

/** Whatever a tree promises, its entries are a guest's. */
function withEvilNames(root: DirectoryNode, _volume: string): DirectoryNode {
  const changed = (node: TreeNode): TreeNode =>
    node.kind === 'directory'
      ? {
          ...node,
          async *list(options) {
            for await (const batch of node.list(options)) {
              yield batch.map(entry => (entry.name === 'later' ? { ...entry, node: late(entry.node) } : entry))
              const good = batch.find(({ name }) => name === 'good')
              if (good) yield EVIL.map(name => ({ name, node: good.node }))
            }
          },
        }
      : node
  return {
    ...root,
    async lookup(name, options) {
      const found = await root.lookup(name, options)
      return found && changed(found)
    },
    async *list(options) {
      for await (const batch of root.list(options)) yield batch.map(entry => ({ ...entry, node: changed(entry.node) }))
    },
  }
}

interface Document {
  readonly files: number
  readonly bytes: number
  readonly resumed?: number
  readonly problemCount?: number
  readonly problems?: readonly { readonly path: string; readonly kind: string }[]
  readonly entries: readonly { readonly name: string; readonly output?: string }[]
}

const kinds = ({ json }: Answer): string[] =>
  ((json as Document).problems ?? []).map(({ kind, path: at }) => `${kind} ${at}`).sort()

/** Links are not followed. */
async function filesBelow(folder: string): Promise<string[]> {
  const words = [folder, '-mindepth', '1', '-printf', '%P\\0']
  return execFileSync('find', words, { encoding: 'utf8' }).split('\0').filter(Boolean).sort()
}

async function ended(answer: Promise<Answer>, code: number, error?: string): Promise<Answer> {
  const found = await answer
  assert.deepEqual([found.code, found.error.code], [code, error], found.stderr)
  return found
}
