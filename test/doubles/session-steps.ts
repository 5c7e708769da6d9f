/** Sessions whose processes are killed after each step that they take, and what is found of them afterwards. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { findQemu } from '../../src/recovery/qemu-process.ts'
import { pinsOf, readSession } from '../../src/recovery/session.ts'
import { type CommandLine, commandLine } from './command-line.ts'

const LIFEBOAT = path.join(import.meta.dirname, '../../bin/lifeboat.mjs')
const KILLED_AT_STEP = path.join(import.meta.dirname, 'killed-at-step.ts')

export interface ShownSession {
  readonly name: string
  readonly state: string
  readonly server?: number
  readonly pid?: number
  readonly problem?: string
  readonly pausedFor?: string
}

export interface StepRun {
  readonly steps: readonly string[]
  readonly killed: boolean
  readonly code: number | null
  readonly stderr: string
}

export interface SessionSteps extends AsyncDisposable {
  readonly cli: CommandLine
  /** A command line of the program as a process of its own. */
  start(words: readonly string[], environment?: Record<string, string>): ChildProcess
  /**
   * Runs it to its end, killed after its step number `last`. One that serves, and says so without having been killed, is told
   * to stop; before that `whileItRuns`.
   */
  killedAt(last: number | undefined, words: readonly string[], whileItRuns?: () => Promise<unknown>): Promise<StepRun>
  shown(name: string): Promise<ShownSession | undefined>
  folder(name: string): string
  /** Of the store; each must be known to a session. */
  pins(): Promise<readonly string[]>
  pinsAreKnown(): Promise<void>
  /** Nothing of any session is left anywhere. */
  nothingIsLeft(name: string): Promise<void>
}

/** A repository with one point of a VM `vm`, whose disk `vda` has these bytes. */
export async function sessionSteps(disk: Uint8Array): Promise<SessionSteps> {
  const cli = commandLine()
  const environment = {
    LIFEBOAT_REPO: cli.at('repository'),
    LIFEBOAT_KEY_FILE: cli.at('key'),
    LIFEBOAT_STATE_DIR: cli.at('state'),
  }
  Object.assign(cli.environment, environment)
  const must = async (words: string) => {
    const { code, stderr } = await cli.json(words)
    assert.equal(code, 0, `${words}: ${stderr}`)
  }
  await must('init')
  await writeFile(cli.at('disk.raw'), disk)
  await must(`backup vm --image vda=${cli.at('disk.raw')}`)

  const start = (words: readonly string[], more: Record<string, string> = {}) =>
    spawn(process.execPath, ['--import', KILLED_AT_STEP, LIFEBOAT, '--json', ...words], {
      env: { ...process.env, NODE_TEST_CONTEXT: undefined, HOME: cli.dir, ...environment, ...more },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  const folder = (name: string) => path.join(cli.at('state'), 'sessions', name)
  const pins = () => readdir(path.join(cli.at('repository'), 'pins')).catch(() => [])
  const sessionNames = async () =>
    (await readdir(cli.at('state/sessions')).catch(() => [])).filter(name => !name.startsWith('.'))
  return {
    cli,
    start,
    folder,
    pins,
    async killedAt(last, words, whileItRuns = async () => {}) {
      const log = cli.at('steps')
      await rm(log, { force: true })
      const child = start(words, { TEST_STEP_LOG: log, ...(last !== undefined && { TEST_STEP_LAST: `${last}` }) })
      let stderr = ''
      let ended = false
      child.stderr?.on('data', data => {
        stderr += data
      })
      const end = new Promise<{ code: number | null; signal: string | null }>(resolve =>
        child.once('close', (code, signal) => {
          ended = true
          resolve({ code, signal })
        }),
      )
      const said = await Promise.race([end, once(child.stdout!, 'data')])
      // A failure is told in the same place, and ends it.
      if (!ended && Array.isArray(said) && !String(said[0]).startsWith('{"error"')) {
        await whileItRuns()
        child.kill('SIGTERM')
      }
      const { code, signal } = await end
      const steps = existsSync(log) ? (await readFile(log, 'utf8')).trim().split('\n') : []
      return { steps, killed: signal === 'SIGKILL', code, stderr }
    },
    async shown(name) {
      const { json, stderr } = await cli.json('session list')
      if (typeof json !== 'object' || json === null || !('sessions' in json)) throw new Error(stderr)
      const sessions = json.sessions as readonly ShownSession[]
      return sessions.find(session => session.name === name)
    },
    async pinsAreKnown() {
      const known = new Set<string>()
      for (const name of await sessionNames())
        for (const pin of await readSession(cli.at('state'), name).then(pinsOf, () => [])) known.add(pin)
      for (const pin of await pins()) assert.ok(known.has(pin), `pin ${pin} is nobody's`)
    },
    async nothingIsLeft(name) {
      assert.deepEqual(await pins(), [])
      assert.ok(!existsSync(folder(name)))
      assert.equal(await findQemu(folder(name)), undefined)
    },
    async [Symbol.asyncDispose]() {
      for (const name of await sessionNames()) {
        const shown = await readFile(path.join(folder(name), 'owner'), 'utf8').catch(() => '')
        const pid = Number(shown.split('.').at(-2))
        if (pid > 1 && pid !== process.pid)
          try {
            process.kill(pid, 'SIGKILL')
          } catch {}
        const qemu = await findQemu(folder(name))
        if (qemu) process.kill(qemu.pid, 'SIGKILL')
      }
      await cli[Symbol.asyncDispose]()
    },
  }
}
