/**
 * `lifeboat mount` as a process of its own. Nothing of this process touches what is below the mount point: a mount that hangs
 * would take the test with it. Whoever looks is a shell with a hard end, and what is left over is unmounted by force.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { CommandLine } from './command-line.ts'

const program = fileURLToPath(new URL('../../bin/lifeboat.mjs', import.meta.url))

/** A reason to skip, or false. */
export const noMounts = (): string | false => {
  if (process.getuid?.() !== 0) return 'only root may mount a guest disk to compare it'
  return false
}

export interface Shell {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** In a shell; killed after so long. */
export const inShell = (script: string, { ms = 60_000 }: { readonly ms?: number } = {}): Promise<Shell> =>
  new Promise(resolve => {
    const child = execFile(
      'bash',
      ['-c', script],
      { maxBuffer: 1 << 24, timeout: ms, killSignal: 'SIGKILL' },
      (_, stdout, stderr) => resolve({ code: child.exitCode, stdout, stderr }),
    )
  })

export interface MountProcess extends AsyncDisposable {
  readonly child: ChildProcess
  /** The mount point. */
  readonly dir: string
  /** Its stdout and stderr so far. */
  readonly said: { stdout: string; stderr: string }
  /** With the mount point as $M. Fails where the script does. */
  look(script: string, options?: { readonly ms?: number }): Promise<string>
  /** Ends it, and gives its exit code. */
  stop(signal?: NodeJS.Signals): Promise<number | null>
  readonly ended: Promise<number | null>
}

export async function mountProcess(t: CommandLine, flags = '--quiet'): Promise<MountProcess> {
  const dir = t.at('mounted')
  mkdirSync(dir, { recursive: true })
  const env = { ...process.env, ...t.environment, NODE_TEST_CONTEXT: undefined, M: dir }
  const child = spawn(process.execPath, [program, 'mount', dir, ...flags.split(' ')], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const said = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', text => {
    said.stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    said.stderr += text
  })
  const ended = once(child, 'exit').then(([code]) => (typeof code === 'number' ? code : null))
  const end = async () => {
    child.kill('SIGKILL')
    await ended
    if (await isMounted(dir)) await inShell(`umount -f -l '${dir}'`, { ms: 10_000 })
  }
  while (said.stdout === '') {
    const ends = await Promise.race([ended.then(() => true), sleep(10, false)])
    assert.ok(!ends, `mount ended: ${said.stderr}`)
  }
  return {
    child,
    dir,
    said,
    ended,
    async look(script, options) {
      const { code, stdout, stderr } = await inShell(`export M='${dir}'\n${script}`, options)
      assert.equal(code, 0, `${script}\n${stdout}${stderr}\nthe mount said: ${said.stderr}`)
      return stdout
    },
    async stop(signal = 'SIGTERM') {
      child.kill(signal)
      return await ended
    },
    [Symbol.asyncDispose]: end,
  }
}

export const isMounted = async (dir: string): Promise<boolean> =>
  (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').some(line => line.split(' ')[4] === dir)
