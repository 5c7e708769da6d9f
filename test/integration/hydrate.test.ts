/** Sessions of the command line that copy their point to this host: their repository goes away, and nobody who reads notices. */
import assert from 'node:assert/strict'
import { mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { type CommandLine, commandLine } from '../doubles/command-line.ts'
import { type HostProcess, host } from '../doubles/host-process.ts'
import { patternBytes } from '../doubles/pattern.ts'

const MiB = 1 << 20
const SIZE = 24 * MiB - 512

const folder = await mkdtemp(path.join(tmpdir(), 'lb-'))
after(() => rm(folder, { recursive: true, force: true }))

interface Shown {
  readonly state: string
  readonly point: string
  readonly hydratedBytes: number
  readonly hydrateBytes: number
  readonly isHydrated: boolean
}

const shown = async (t: CommandLine, name: string): Promise<Shown> => {
  const { json } = await t.json(`session show ${name}`)
  return (json as { sessions: Shown[] }).sessions[0]!
}

async function until<T>(ask: () => Promise<T>, isTrue: (answer: T) => boolean): Promise<T> {
  for (;;) {
    const answer = await ask()
    if (isTrue(answer)) return answer
    await systemClock.sleep(100)
  }
}

async function killed({ child, ended }: HostProcess): Promise<void> {
  child.kill('SIGKILL')
  await ended.catch(() => {})
}

async function client(socket: string, { child, ended }: HostProcess) {
  for (;;)
    try {
      return await connectNbd({ socket, exportName: 'vda', clock: systemClock })
    } catch (error) {
      if (child.exitCode !== null) throw new Error(`no server: ${(await ended).stderr}`, { cause: error })
      await systemClock.sleep(50)
    }
}

async function contents(socket: string, server: HostProcess): Promise<Buffer> {
  await using guest = await client(socket, server)
  const bytes = Buffer.alloc(SIZE)
  for (let at = 0; at < SIZE; at += MiB) await guest.readInto(bytes.subarray(at, Math.min(SIZE, at + MiB)), at)
  return bytes
}

test('a hydrated export is served, killed, resumed and committed though its repository was away', {
  timeout: 240_000,
}, async () => {
  const repository = path.join(folder, 'repository')
  const away = path.join(folder, 'away')
  const socket = path.join(folder, 'guest.sock')
  const environment = {
    LIFEBOAT_REPO: repository,
    LIFEBOAT_KEY_FILE: path.join(folder, 'key'),
    LIFEBOAT_CACHE_DIR: path.join(folder, 'cache'),
    LIFEBOAT_STATE_DIR: path.join(folder, 'state'),
  }
  // What is killed is a process of its own.
  const here = await host(folder, 'here', environment)
  await using t = commandLine(environment)
  const disk = Buffer.from(patternBytes(SIZE, 7))
  disk.fill(0, 3 * MiB, 9 * MiB)
  await writeFile(path.join(folder, 'disk.raw'), disk)
  for (const words of ['init', `backup vm --image vda=${path.join(folder, 'disk.raw')}`])
    assert.equal((await t.run(words)).code, 0)

  const first = here.start(['export', 'vm@latest', '--session', 's', '--socket', socket, '--writable', '--hydrate'])
  try {
    await (await client(socket, first))[Symbol.asyncDispose]()
    const done = await until(
      () => shown(t, 's'),
      ({ isHydrated }) => isHydrated,
    )
    assert.deepEqual([done.state, done.hydratedBytes, done.hydrateBytes], ['running', SIZE, SIZE])
    await rename(repository, away)
    assert.ok((await contents(socket, first)).equals(disk), 'read without the repository')
    await using guest = await client(socket, first)
    await guest.write(new Uint8Array(4096).fill(9), 5 * MiB)
    disk.fill(9, 5 * MiB, 5 * MiB + 4096)
  } finally {
    await killed(first)
  }
  console.log('injected: the repository was renamed away, the server killed')

  const second = here.start(['session', 'resume', 's'])
  try {
    assert.ok((await contents(socket, second)).equals(disk), 'resumed without the repository')
    await rename(away, repository)
    const { code, json, stderr } = await t.json('session commit s')
    assert.equal(code, 0, stderr)
    const now = await until(
      () => shown(t, 's'),
      ({ isHydrated }) => isHydrated,
    )
    assert.equal(now.point, `vm@${(json as { point: string }).point}`)
    await rename(repository, away)
    assert.ok((await contents(socket, second)).equals(disk), 'committed, hydrated again, and without the repository')
  } finally {
    await killed(second)
  }

  const third = here.start(['session', 'resume', 's'])
  try {
    assert.ok((await contents(socket, third)).equals(disk), 'the new point, resumed without the repository')
    third.child.kill('SIGTERM')
    assert.equal((await third.ended).code, 0)
    assert.equal((await shown(t, 's')).state, 'stopped')
    await rename(away, repository)
    const { code, stderr } = await t.json('session discard s')
    assert.equal(code, 0, stderr)
  } finally {
    await killed(third)
  }
  assert.deepEqual(
    (await readdir(repository)).filter(name => name === 'pins'),
    ['pins'],
  )
  assert.deepEqual(await readdir(path.join(repository, 'pins')), [], 'the pins went with the session')
})
