/** A host: its own state folder, and the command line as a process of its own, which may be paused or killed. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('../../bin/lifeboat.mjs', import.meta.url))

export interface Ended {
  /** Null where a signal ended it. */
  readonly code: number | null
  readonly json: Record<string, unknown>
  /** `error.code` of a failure, else ''. */
  readonly error: string
  readonly stderr: string
}

export interface HostProcess {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
}

export interface Host {
  readonly name: string
  start(words: readonly string[]): HostProcess
  run(words: readonly string[]): Promise<Ended>
}

export async function host(dir: string, name: string, environment: Record<string, string>): Promise<Host> {
  const home = path.join(dir, name)
  await mkdir(home, { recursive: true })
  const env = {
    ...process.env,
    NODE_TEST_CONTEXT: undefined,
    HOME: home,
    LIFEBOAT_STATE_DIR: path.join(home, 'state'),
    ...environment,
  }
  const start = (words: readonly string[]): HostProcess => {
    const child = spawn(process.execPath, [program, '--json', ...words], { env, stdio: ['ignore', 'pipe', 'pipe'] })
    return { child, ended: endOf(child) }
  }
  return { name, start, run: words => start(words).ended }
}

async function endOf(child: ChildProcess): Promise<Ended> {
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', text => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  const json: Record<string, unknown> = stdout === '' ? {} : JSON.parse(stdout)
  return { code, json, error: errorCode(json), stderr }
}

function errorCode({ error }: Record<string, unknown>): string {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : ''
  return typeof code === 'string' ? code : ''
}
