/** The watch over a guest's space, with a disk that really fills and a QEMU of a few lines. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import type { QmpClient } from '../../../src/hypervisor/qemu/qmp.ts'
import { watchGuest } from '../../../src/recovery/guest-watch.ts'
import type { SessionState } from '../../../src/recovery/session-state.ts'
import { smallDisk } from '../../doubles/command-line.ts'

const MiB = 1 << 20

/** Runs, stops and goes on as told; while it is broken, going on ends in 'io-error' again. */
class SmallQemu {
  status = 'running'
  broken = false
  readonly commands: string[] = []
  readonly qmp: QmpClient = {
    version: { major: 7, minor: 2, micro: 0 },
    isClosed: false,
    execute: async command => {
      if (command === 'query-status') return { status: this.status }
      this.commands.push(command)
      this.status = command === 'stop' ? 'paused' : this.broken ? 'io-error' : 'running'
      return {}
    },
    until: () => Promise.reject(new Error('not here')),
    onEvent: () => () => {},
    onClosed: () => {},
    [Symbol.asyncDispose]: async () => {},
  }
}

interface Watched {
  readonly qemu: SmallQemu
  readonly told: string[]
  readonly filler: string
  pausedFor(): SessionState['pausedFor']
  /** Until it is so; the test's time limit ends the wait. */
  until(so: () => boolean): Promise<void>
  looks(count: number): Promise<void>
}

async function watched(work: (watched: Watched) => Promise<void>): Promise<boolean> {
  const folder = await mkdtemp(path.join(tmpdir(), 'lb-watch-'))
  const disk = smallDisk(folder, 32 * MiB)
  try {
    if (!disk) return false
    const qemu = new SmallQemu()
    const told: string[] = []
    const ending = new AbortController()
    let state: SessionState | undefined
    let looks = 0
    let wake = Promise.withResolvers<void>()
    const done = watchGuest({
      qmp: qemu.qmp,
      folder,
      log: path.join(folder, 'qemu.log'),
      reserve: 8 * MiB,
      state: () => state,
      update: async change => {
        const nothing: unknown = {}
        state = change(state ?? (nothing as SessionState))
      },
      tell: message => told.push(message),
      clock: {
        ...systemClock,
        sleep: async (_ms, options) => {
          looks++
          wake.resolve()
          wake = Promise.withResolvers()
          await systemClock.sleep(5, options)
        },
      },
      signal: ending.signal,
    })
    await writeFile(path.join(folder, 'qemu.log'), '')
    const look = () => wake.promise
    try {
      await work({
        qemu,
        told,
        filler: path.join(folder, 'filler'),
        pausedFor: () => state?.pausedFor,
        until: async so => {
          while (!so()) await look()
        },
        looks: async count => {
          for (const last = looks + count; looks < last; ) await look()
        },
      })
    } finally {
      ending.abort()
      await done
    }
    return true
  } finally {
    await disk?.[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  }
}

const skip = process.getuid?.() !== 0 && 'a small disk of its own needs root'

test('with less than the reserve free the guest is paused, and goes on when there is space again', {
  skip,
}, async () => {
  assert.ok(
    await watched(async ({ qemu, told, filler, pausedFor, until, looks }) => {
      await looks(2)
      assert.deepEqual(qemu.commands, [])
      await writeFile(filler, Buffer.alloc(28 * MiB))
      await until(() => qemu.status === 'paused')
      assert.equal(pausedFor(), 'space')
      await looks(3)
      assert.deepEqual(qemu.commands, ['stop'], 'it stays so')
      await truncate(filler, 24 * MiB - 256 * 1024)
      await looks(3)
      assert.equal(qemu.status, 'paused', 'hardly more than the reserve is not enough to go on')
      await rm(filler)
      await until(() => qemu.status === 'running' && pausedFor() === undefined)
      assert.match(told.join('\n'), /paused: \d+ MiB are free.*\n.*goes on/)
    }),
  )
})

test('a guest that somebody else has paused, or lets run all the same, is left to them', { skip }, async () => {
  assert.ok(
    await watched(async ({ qemu, filler, pausedFor, until, looks }) => {
      qemu.status = 'paused'
      await looks(3)
      assert.deepEqual(qemu.commands, [])
      qemu.status = 'running'
      await writeFile(filler, Buffer.alloc(28 * MiB))
      await until(() => qemu.status === 'paused')
      await rm(filler)
      await until(() => qemu.status === 'running' && pausedFor() === undefined)
      qemu.status = 'paused'
      await looks(3)
      assert.equal(qemu.status, 'paused')
    }),
  )
})

test('a guest that QEMU has stopped over an error is let go on until it holds, but not onto a full disk', {
  skip,
}, async () => {
  assert.ok(
    await watched(async ({ qemu, told, filler, until, looks }) => {
      qemu.broken = true
      qemu.status = 'io-error'
      await until(() => qemu.commands.length >= 4)
      assert.equal(qemu.status, 'io-error')
      qemu.broken = false
      await until(() => qemu.status === 'running')
      await looks(2)
      assert.equal(told.length, 2, told.join('\n'))

      await writeFile(filler, Buffer.alloc(30 * MiB))
      qemu.status = 'io-error'
      await looks(2)
      const before = qemu.commands.length
      await looks(3)
      assert.deepEqual([qemu.status, qemu.commands.length], ['io-error', before])
      await rm(filler)
      await until(() => qemu.status === 'running')
      assert.match(told.at(-1) ?? '', /goes on/)
    }),
  )
})
