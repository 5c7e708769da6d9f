/**
 * kill -9 of the process that commits or moves a session, after each step that it takes: the session is committed or not and
 * goes on, its VM is never killed, its point is always pinned, and what was written is there at the end.
 */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { connectQmp } from '../../src/hypervisor/qemu/qmp.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { findQemu } from '../../src/recovery/qemu-process.ts'
import { readSession } from '../../src/recovery/session.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking } from '../doubles/peer-tools.ts'
import { type SessionSteps, sessionSteps } from '../doubles/session-steps.ts'

const KiB = 1024
const SIZE = 4096 * KiB
const told = (text: string) => process.stdout.write(`# ${text}\n`)

interface Kind {
  readonly begin: readonly string[]
  readonly write: (folder: string, fill: number, offset: number) => Promise<void>
}

const KINDS: Record<string, Kind> = {
  boot: {
    begin: ['boot', 'vm@latest', '--session', 'one', '--accel', 'tcg', '--memory', '32M'],
    async write(folder, fill, offset) {
      await using qmp = await connectQmp({ socket: path.join(folder, 'qmp.sock'), clock: systemClock })
      const line = `qemu-io -d /machine/peripheral/vda/virtio-backend "write -P ${fill} ${offset} 64k"`
      const said = await qmp.execute('human-monitor-command', { 'command-line': line })
      assert.doesNotMatch(String(said), /fail|error|conflict/i)
    },
  },
  'export --writable': {
    begin: ['export', 'vm@latest', '--session', 'one', '--writable'],
    async write(folder, fill, offset) {
      const socket = path.join(folder, 'nbd.sock')
      await using client = await connectNbd({ socket, exportName: 'vda', clock: systemClock })
      await client.write(Buffer.alloc(64 * KiB, fill), offset)
    },
  },
}

/** A session that is served, with a model of what its disk must hold. */
async function story({ write }: Kind) {
  const at = await sessionSteps(patternBytes(SIZE))
  const model = Buffer.from(patternBytes(SIZE))
  const folder = at.folder('one')
  const log = at.cli.at('steps')
  let server: ChildProcess | undefined
  let ended: Promise<unknown> = Promise.resolve()
  let writes = 0
  const steps = async () => (existsSync(log) ? (await readFile(log, 'utf8')).trim().split('\n') : [])
  const self = {
    at,
    folder,
    model,
    steps,
    exited: () => ended,
    /** Killed after the `last`-th of its steps; once it runs it has taken `from`. */
    async serve(words: readonly string[], last?: number): Promise<number> {
      await rm(log, { force: true })
      server = at.start(words, { TEST_STEP_LOG: log, ...(last !== undefined && { TEST_STEP_LAST: `${last}` }) })
      const child = server
      ended = new Promise(resolve => child.once('close', resolve))
      let said = ''
      child.stderr?.on('data', data => {
        said += data
      })
      const answer = await Promise.race([once(child.stdout!, 'data'), ended])
      assert.ok(Array.isArray(answer) && !String(answer[0]).startsWith('{"error"'), `${answer} ${said}`)
      return (await steps()).length
    },
    async kill() {
      server?.kill('SIGKILL')
      await ended
    },
    async write() {
      // Not the boot sector, by whose read a VM that starts again is known to run.
      const [fill, offset] = [1 + (writes % 250), (1 + (writes % 60)) * 64 * KiB]
      writes++
      await write(folder, fill, offset)
      model.fill(fill, offset, offset + 64 * KiB)
    },
    /** The point that the state names is one that exists and is pinned. */
    async isPinned() {
      await at.pinsAreKnown()
      const { point } = await readSession(at.cli.at('state'), 'one')
      assert.ok((await at.pins()).includes(point.pin ?? ''), `its pin ${point.pin} is in the store`)
      const { json } = await at.cli.json('points vm')
      assert.ok(JSON.stringify(json).includes(`"id":"${point.id}"`))
    },
    async latest(): Promise<Buffer> {
      const output = at.cli.at('latest.raw')
      const { code, stderr } = await at.cli.json(`restore vm@latest/vda --output ${output} --force`)
      assert.equal(code, 0, stderr)
      return await readFile(output)
    },
    async points(): Promise<number> {
      const { json } = await at.cli.json('points vm')
      return (json as { points: unknown[] }).points.length
    },
    [Symbol.asyncDispose]: () => at[Symbol.asyncDispose](),
  }
  return self
}

const must = async (at: SessionSteps, words: string) => {
  const { code, stderr, json } = await at.cli.json(words)
  assert.equal(code, 0, `${words}: ${stderr}`)
  return json
}

for (const [name, kind] of Object.entries(KINDS)) {
  const skip = name === 'boot' && lacking('qemu-system-x86_64', 'qemu-img')
  const resume = ['session', 'resume', 'one']

  test(`${name}: its server is killed after each step of a commit`, { skip }, async () => {
    await using one = await story(kind)
    const { at } = one
    await one.serve(kind.begin)
    await one.write()
    await one.kill()
    const from = await one.serve(resume)
    await must(at, 'session commit one')
    assert.ok((await one.latest()).equals(one.model))
    const count = (await one.steps()).length - from
    assert.ok(count >= 4, `${count} steps`)
    let kills = 0
    for (let step = 1; step <= count; step++) {
      await one.kill()
      // The steps up to here are those of every server that takes over.
      await one.serve(resume, from + step)
      await one.write()
      const before = await one.points()
      // Figures that were written down meanwhile count as a step in one run and not in the next.
      if ((await at.cli.json('session commit one')).code === 0) continue
      kills++
      await one.exited()
      const isThere = (await one.points()) > before
      told(`${name} killed at its commit after '${(await one.steps()).at(-1)}': ${isThere ? 'committed' : 'not'}`)
      assert.equal((await at.shown('one'))?.state, 'crashed')
      await one.isPinned()
      if (isThere) assert.ok((await one.latest()).equals(one.model), 'the point is whole')
      await one.serve(resume)
      await one.write()
      await must(at, 'session commit one')
      assert.ok((await one.latest()).equals(one.model), 'what was written before and after is in the next point')
      await one.isPinned()
    }
    assert.ok(kills >= 4, `${kills} kills`)
    // One that lives may be bound to die at its next step.
    await one.kill()
    await one.serve(resume)
    await must(at, 'session discard one')
    await one.exited()
    await at.nothingIsLeft('one')
  })
}

test('boot: its server is killed after each step of a move, and the VM lives', {
  skip: lacking('qemu-system-x86_64', 'qemu-img'),
}, async () => {
  const kind = KINDS.boot!
  const after: string[] = []
  for (let step = 1; ; step++) {
    await using one = await story(kind)
    const { at, folder } = one
    await one.serve(kind.begin)
    await one.write()
    await one.kill()
    const from = await one.serve(['session', 'resume', 'one'])
    await one.kill()
    await one.serve(['session', 'resume', 'one'], from + step)
    await one.write()
    const qemu = await findQemu(folder)
    assert.ok(qemu)
    const target = at.cli.at('production.raw')
    const { code } = await at.cli.json(`session migrate one --to ${target}`)
    await one.exited()
    const last = (await one.steps()).at(-1) ?? ''
    const shown = await at.shown('one')
    told(`killed at its move after '${last}': ${shown?.state}, ended with ${code}`)
    assert.deepEqual(await findQemu(folder), qemu, 'the VM is the same')
    after.push(`${last}: ${shown?.state}`)
    if (shown?.state === 'crashed') {
      await one.isPinned()
      await one.serve(['session', 'resume', 'one'])
      await must(at, `session migrate one --to ${target}`)
      await one.exited()
    }
    assert.equal((await at.shown('one'))?.state, 'migrated')
    await must(at, 'session discard one')
    assert.deepEqual(await at.pins(), [])
    assert.deepEqual(await findQemu(folder), qemu, 'and it outlives its session')
    process.kill(qemu.pid, 'SIGTERM')
    while (await findQemu(folder)) await systemClock.sleep(50)
    assert.ok((await readFile(target)).equals(one.model), 'all that was written is there')
    if (code === 0) break
  }
  assert.ok(after.some(line => line.endsWith(': crashed')))
  assert.ok(after.filter(line => line.endsWith(': migrated')).length >= 3, after.join(', '))
})
