/** The agent as a process of this host, over a socket pair. Each volume is a folder; the appliance's programs are scripts of a few lines. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { systemClock } from '../../src/core/clock.ts'
import { AGENT_PROGRAM } from '../../src/guest/guest-programs.ts'
import { type RemoteGuests, remoteGuests } from '../../src/guest/remote-tree.ts'

export interface AgentProcess extends AsyncDisposable {
  readonly stream: Duplex
  readonly pid: number
  /** What it said on standard error so far. */
  readonly complaints: () => string
  /** Its exit code, or null where a signal ended it. */
  readonly ended: Promise<number | null>
}

const SCRIPTS = {
  volumes: 'cat "$(dirname "$0")/volumes.json"',
  mount:
    'test -d "$(dirname "$0")/volume-$1" || { echo "no volume $1" >&2; exit 1; }; echo "$(dirname "$0")/volume-$1/."',
  unlock: 'test "$(cat)" = secret || { echo "no key fits" >&2; exit 13; }',
}

interface AgentOptions {
  /** Another build of the agent. */
  readonly program?: string
  readonly threads?: number
  readonly flags?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
}

/** `volumes`: folders by the names of volumes. */
export async function agentProcess(
  volumes: Readonly<Record<string, string>>,
  { program = AGENT_PROGRAM, threads = 4, flags = [], env = {} }: AgentOptions = {},
): Promise<AgentProcess> {
  const programs = await mkdtemp(join(tmpdir(), 'agent-'))
  await mkdir(programs, { recursive: true })
  for (const [name, script] of Object.entries(SCRIPTS))
    await writeFile(join(programs, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  for (const [name, folder] of Object.entries(volumes)) await symlink(folder, join(programs, `volume-${name}`))
  const list = Object.keys(volumes).map(name => ({ name, disk: 'vda', type: 'ext4', sizeBytes: 1, state: 'readable' }))
  await writeFile(join(programs, 'volumes.json'), JSON.stringify(list))
  const child = spawn(program, ['--fd', '3', '--programs', programs, '--threads', String(threads), ...flags], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  })
  const stream = child.stdio[3]
  if (!(stream instanceof Duplex) || child.pid === undefined) throw new Error('the agent did not start')
  let complaints = ''
  child.stderr?.setEncoding('utf8').on('data', text => {
    complaints += text
  })
  const ended = once(child, 'close').then(([code]) => code)
  return {
    stream,
    pid: child.pid,
    complaints: () => complaints,
    ended,
    async [Symbol.asyncDispose]() {
      stream.destroy()
      await ended
      await rm(programs, { recursive: true, force: true })
    },
  }
}

export interface AgentGuests extends AsyncDisposable {
  readonly guests: RemoteGuests
  readonly agent: AgentProcess
}

export async function agentGuests(
  volumes: Readonly<Record<string, string>>,
  options: AgentOptions = {},
): Promise<AgentGuests> {
  const agent = await agentProcess(volumes, options)
  const guests = await remoteGuests({ stream: agent.stream, clock: systemClock, treePrefix: 'test' })
  return {
    guests,
    agent,
    async [Symbol.asyncDispose]() {
      await guests[Symbol.asyncDispose]()
      await agent[Symbol.asyncDispose]()
    },
  }
}
