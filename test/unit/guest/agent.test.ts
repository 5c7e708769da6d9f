import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chown, mkdir, mkdtemp, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, suite, test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import type { DirectoryNode } from '../../../src/files/file-tree.ts'
import { agentGuests } from '../../doubles/guest-agent.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { compareTree } from '../../doubles/tree-compare.ts'
import { UNIX } from '../../guest/guest-layouts.ts'
import { referenceTree } from '../../guest/reference-tree.ts'
import { tarOf } from '../../guest/tar-of-truth.ts'

const needsRoot = process.getuid?.() === 0 ? false : 'file handles, owners and devices need root'
const folder = await mkdtemp(join(tmpdir(), 'agent-truth-'))
// Node's own removal has to name what is deep inside.
after(() => execFileSync('rm', ['-rf', folder]))

const DEEP = 300
const LONG_NAME = 'a-name-of-a-hundred-bytes-and-more-'.repeat(3)

async function down(root: DirectoryNode, names: readonly string[]): Promise<DirectoryNode> {
  let here = root
  for (const name of names) {
    const next = await here.lookup(name)
    assert.equal(next?.kind, 'directory', name)
    if (next?.kind === 'directory') here = next
  }
  return here
}

suite('the agent over a folder of this host', { skip: needsRoot }, () => {
  test('every file is told as it was meant: owners, times, links, holes, devices, attributes, names of any bytes', async () => {
    const truth = referenceTree()
    await mkdir(join(folder, 'truth'))
    const tar = ['-x', '-p', '-C', join(folder, 'truth'), '--numeric-owner', '--xattrs', '--xattrs-include=*', '--acls']
    execFileSync('tar', tar, { input: tarOf(truth), stdio: ['pipe', 'ignore', 'ignore'] })
    for (const handles of ['yes', 'no']) {
      await using opened = await agentGuests({ volume: join(folder, 'truth') }, { flags: ['--handles', handles] })
      const tree = await opened.guests.open('volume')
      const { compared, differences } = await compareTree(tree.root, truth, UNIX)
      assert.deepEqual(differences, [], `handles: ${handles}`)
      assert.equal(compared, truth.length)
    }
  })

  test('300 folders deep, where a path is longer than the system takes one', async () => {
    const start = join(folder, 'deep')
    await mkdir(start)
    const steps = `for i in $(seq ${DEEP}); do mkdir ${LONG_NAME}$i && cd ${LONG_NAME}$i || exit 1; done; echo found >bottom`
    execFileSync('bash', ['-c', steps], { cwd: start })
    const names = Array.from({ length: DEEP }, (_, index) => `${LONG_NAME}${index + 1}`)
    for (const handles of ['yes', 'no']) {
      await using opened = await agentGuests({ volume: start }, { flags: ['--handles', handles] })
      const { root } = await opened.guests.open('volume')
      const bottom = await down(root, names)
      const entries = (await Array.fromAsync(bottom.list())).flat()
      assert.deepEqual(
        entries.map(({ name, node }) => [name, node.attributes().size]),
        [['bottom', 6]],
      )
    }
  })

  test('extended attributes that are long, and many', async () => {
    const path = join(folder, 'attributes')
    await mkdir(path)
    await writeFile(join(path, 'long'), '')
    const value = patternBytes(3500, 9)
    execFileSync('setfattr', ['-n', 'user.long', '-v', `0x${value.toString('hex')}`, join(path, 'long')])
    await using opened = await agentGuests({ volume: path })
    const { root } = await opened.guests.open('volume')
    const xattrs = await (await root.lookup('long'))?.xattrs()
    assert.deepEqual([...(xattrs?.keys() ?? [])], ['user.long'])
    assert.ok(value.equals(xattrs?.get('user.long') ?? Buffer.alloc(0)))
  })

  test('what is mounted below is not the volume', async () => {
    await using opened = await agentGuests({ volume: '/' })
    const { root } = await opened.guests.open('volume')
    assert.notEqual((await stat('/proc')).dev, (await stat('/')).dev)
    const entries = (await Array.fromAsync(root.list())).flat()
    assert.ok(entries.some(({ name }) => name === 'etc'))
    assert.ok(!entries.some(({ name }) => name === 'proc'))
    assert.equal(await (await agentRoot(opened)).lookup('proc'), undefined)
  })

  test('reading leaves the times of access, also of files that others own', async () => {
    const path = join(folder, 'times')
    await mkdir(path)
    await writeFile(join(path, 'file'), 'contents')
    await chown(join(path, 'file'), 1234, 4321)
    execFileSync('touch', ['-a', '-d', '@1000000000', join(path, 'file')])
    execFileSync('touch', ['-a', '-d', '@1000000000', path])
    await using opened = await agentGuests({ volume: path })
    const { root } = await opened.guests.open('volume')
    for await (const entries of root.list()) assert.equal(entries.length, 1)
    const node = await root.lookup('file')
    assert.equal(node?.kind, 'file')
    await using reader = node?.kind === 'file' ? await node.open() : undefined
    const bytes = Buffer.alloc(8)
    await reader?.readInto(bytes, 0)
    assert.equal(bytes.toString(), 'contents')
    assert.equal((await stat(join(path, 'file'))).atimeMs, 1_000_000_000_000)
    assert.equal((await stat(path)).atimeMs, 1_000_000_000_000)
  })

  test('the programs of the appliance get names as they are, and their complaints are told', async () => {
    await using opened = await agentGuests({ volume: folder })
    const { guests } = opened
    assert.deepEqual(
      (await guests.volumes()).map(({ name, state }) => [name, state]),
      [['volume', 'readable']],
    )
    await guests.unlock('volume', Buffer.from('secret'))
    const wrong = guests.unlock('volume', Buffer.from('guess'))
    await assert.rejects(wrong, error => isLifeboatError(error, 'wrong-guest-key') && /no key fits/.test(error.message))
    const shell = '$(touch pwned); `id`'
    const absent = guests.open(shell)
    await assert.rejects(
      absent,
      error => isLifeboatError(error, 'guest-filesystem') && error.message.includes(`no volume ${shell}`),
    )
    assert.equal(await guests.open('volume'), await guests.open('volume'))
  })
})

const agentRoot = async ({ guests }: Awaited<ReturnType<typeof agentGuests>>): Promise<DirectoryNode> =>
  (await guests.open('volume')).root
