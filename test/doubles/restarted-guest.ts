/**
 * A guest that runs from its point by the command line, writes, checksums and reads back without a pause, while its server is
 * killed and resumed under it. The guest counts what it found wrong, and its kernel every I/O error.
 */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { findQemu } from '../../src/recovery/qemu-process.ts'
import { encodeSessionState, parseSessionState } from '../../src/recovery/session-state.ts'
import { connectConsole, type GuestConsole } from '../guest/console.ts'
import { type GuestImage, tinyImage } from '../guest/tiny-image.ts'
import { type SessionSteps, sessionSteps } from './session-steps.ts'

const SESSION = 'guest'
const ANSWER_MS = 180_000

/** Sixteen files in turn: written, synced, and all of them and the guest's own read back past its cache. */
const WRITER = [
  'mkdir -p /var/w; find /bin /etc /boot -xdev -type f | sort > /var/own; xargs sha256sum < /var/own > /var/own.sum; sync;',
  '(i=0; while :; do i=$((i+1)); n=$((i%16));',
  'dd if=/dev/urandom of=/var/w/$n.new bs=64k count=2 2>/dev/null; sync;',
  '(cd /var/w; mv $n.new $n; sha256sum $n > $n.sum; sync);',
  'echo 3 > /proc/sys/vm/drop_caches;',
  '(cd /var/w; cat *.sum | sha256sum -c -s) || echo "own write $i" >> /var/bad;',
  'sha256sum -c -s /var/own.sum || echo "point $i" >> /var/bad;',
  'echo $i > /var/count.new; sync; mv /var/count.new /var/count; done) > /dev/null 2>&1 &',
].join(' ')

export interface GuestFindings {
  readonly rounds: number
  readonly ioErrors: number
  readonly mismatches: number
  /** Rounds of the writer in the guest. */
  readonly checked: number
}

export interface RestartedGuest extends AsyncDisposable {
  readonly at: SessionSteps
  readonly folder: string
  guest: GuestConsole
  /** kill -9 of the server, and another one that takes over after so long. The guest must get on afterwards. */
  restartServer(awayMs: number): Promise<void>
  /** Every process of the session dies, and the host has another boot id. */
  reboot(): Promise<void>
  /** Runs a command to its end. */
  run(words: readonly string[]): Promise<{ code: number | null; json: unknown }>
  startWriter(): Promise<void>
  checked(): Promise<number>
  findings(): Promise<GuestFindings>
}

/** `flags`: of its boot, besides those of the machine. */
export async function restartedGuest(flags: readonly string[] = []): Promise<RestartedGuest> {
  const image: GuestImage = await tinyImage()
  const at = await sessionSteps(await readFile(image.disk))
  const { kernel, initrd, append } = image.direct
  let server: ChildProcess | undefined
  let rounds = 0

  const serve = async (words: readonly string[]): Promise<{ serial: string; takenOver: boolean }> => {
    const child = at.start(words)
    server = child
    const answer = await answerOf(child)
    return { serial: String(answer.serial), takenOver: answer.takenOver === true }
  }
  const words = ['--session', SESSION, '--accel', 'tcg', '--memory', '256M', '--kernel', kernel, '--append', append]
  const booted = await serve(['boot', 'vm@latest', ...words, ...flags, '--', '-initrd', initrd, '-no-reboot'])
  const first = await connectConsole(booted.serial)
  await first.waitForPrompt(image.bootTimeoutMs * 2)

  const self: RestartedGuest = {
    at,
    folder: at.folder(SESSION),
    guest: first,
    async restartServer(awayMs) {
      const before = await self.checked()
      await killed(server)
      await sleep(awayMs)
      assert.equal((await at.shown(SESSION))?.state, 'crashed')
      const { takenOver } = await serve(['session', 'resume', SESSION])
      assert.ok(takenOver, 'the guest was taken over, not started again')
      rounds++
      // The first may have ended with the old server; the second has read and written with the new one.
      while ((await self.checked()) < before + 2) await sleep(200)
    },
    async reboot() {
      self.guest[Symbol.dispose]()
      const qemu = await findQemu(self.folder)
      if (qemu) process.kill(qemu.pid, 'SIGKILL')
      await killed(server)
      const file = path.join(self.folder, 'session.json')
      const state = parseSessionState(await readFile(file), file)
      await writeFile(file, encodeSessionState({ ...state, bootId: '00000000-0000-4000-8000-000000000000' }))
    },
    async run(line) {
      const child = at.start(line)
      let text = ''
      child.stdout?.on('data', data => {
        text += data
      })
      const code = await new Promise<number | null>(resolve => child.once('close', resolve))
      return { code, json: text === '' ? undefined : JSON.parse(text) }
    },
    async startWriter() {
      await self.guest.must(WRITER)
    },
    async checked() {
      return Number((await self.guest.run('cat /var/count')).output) || 0
    },
    async findings() {
      const count = async (line: string) => Number(await self.guest.must(line))
      return {
        rounds,
        ioErrors: await count("dmesg | grep -ci 'i/o error' || true"),
        mismatches: await count('cat /var/bad 2>/dev/null | wc -l'),
        checked: await self.checked(),
      }
    },
    async [Symbol.asyncDispose]() {
      self.guest[Symbol.dispose]()
      await at[Symbol.asyncDispose]()
    },
  }
  return self
}

async function killed(child: ChildProcess | undefined): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return
  const closed = new Promise(resolve => child.once('close', resolve))
  child.kill('SIGKILL')
  await closed
}

/** The one document that a server prints when its session runs. */
async function answerOf(child: ChildProcess): Promise<Readonly<Record<string, unknown>>> {
  let [text, said] = ['', '']
  child.stderr?.on('data', data => {
    said += data
  })
  const late = setTimeout(() => child.kill('SIGKILL'), ANSWER_MS)
  try {
    return await new Promise((resolve, reject) => {
      child.stdout?.on('data', data => {
        text += data
        if (text.includes('\n')) resolve(JSON.parse(text))
      })
      child.once('close', code => reject(new Error(`ended with ${code} before it answered: ${said}`)))
    })
  } finally {
    clearTimeout(late)
  }
}
