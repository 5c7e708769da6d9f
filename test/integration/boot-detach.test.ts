/** `boot --detach`: the VM is left to its session, which ends in order when QEMU does. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { StoreFigures } from '../../src/storage/metered.ts'

const LIFEBOAT = path.join(import.meta.dirname, '../../bin/lifeboat.mjs')

interface Session {
  readonly name: string
  readonly state: string
  readonly bytesRead: number
  readonly bytesWritten: number
  readonly requests: StoreFigures
}

test('boot --detach returns at the first read and leaves the VM to its session; a start that fails says why', {
  timeout: 120_000,
}, async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-detach-'))
  const environment = {
    ...process.env,
    LIFEBOAT_REPO: path.join(dir, 'repo'),
    LIFEBOAT_KEY_FILE: path.join(dir, 'key'),
    LIFEBOAT_STATE_DIR: path.join(dir, 'state'),
  }
  const lifeboat = (...words: string[]) =>
    promisify(execFile)(process.execPath, [LIFEBOAT, '--json', ...words], { env: environment }).then(
      ({ stdout }) => ({ code: 0, json: JSON.parse(stdout) }),
      ({ code, stdout }) => ({ code, json: JSON.parse(stdout) }),
    )
  const sessions = async (): Promise<readonly Session[]> => (await lifeboat('session', 'list')).json.sessions
  try {
    await lifeboat('init')
    const image = path.join(dir, 'disk.raw')
    // No boot loader: the firmware reads the first sector, which is all that this needs.
    await writeFile(image, Buffer.alloc(1 << 20, 'disk'))
    await lifeboat('backup', 'vm', '--image', `vda=${image}`)

    const booted = await lifeboat('boot', 'vm@latest', '--detach', '--session', 'left', '--accel', 'tcg')
    assert.equal(booted.code, 0)
    assert.equal(booted.json.session, 'left')
    assert.deepEqual(
      (await sessions()).map(({ name, state }) => ({ name, state })),
      [{ name: 'left', state: 'running' }],
    )
    const [left] = await sessions()
    assert.ok((left?.bytesWritten ?? 0) > 0, 'what the overlay takes is told')
    const again = await lifeboat('boot', 'vm@latest', '--detach', '--session', 'left', '--accel', 'tcg')
    assert.notEqual(again.code, 0)
    assert.equal(again.json.error.code, 'session-busy')

    process.kill(booted.json.pid, 'SIGTERM')
    while ((await sessions())[0]?.state !== 'stopped') await setTimeout(200)
    const [ended] = await sessions()
    assert.ok(
      ended && ended.requests.get.requests > 5 && ended.requests.get.bytes > 0 && ended.requests.put.requests > 0,
    )
    assert.equal((await lifeboat('session', 'discard', 'left')).code, 0)
    assert.deepEqual(await sessions(), [])
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})
