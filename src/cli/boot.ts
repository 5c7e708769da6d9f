import { spawn } from 'node:child_process'
import { mkdir, open, readFile } from 'node:fs/promises'
import path from 'node:path'
import { ChunkCache } from '../cache/chunk-cache.ts'
import { LifeboatError } from '../core/errors.ts'
import { bootPoint, type RunningBoot } from '../recovery/boot.ts'
import { inventSessionName } from '../recovery/session.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { flatFigures } from './requests.ts'
import { runDirOf } from './run-dir.ts'
import { pointToRead } from './suspect-points.ts'
import { formatBytes, formatSeconds, parseBytes } from './units.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly session?: string
  readonly memory?: string
  readonly cpus?: string
  readonly net?: string
  readonly kernel?: string
  readonly append?: string
  readonly accel?: string
  readonly cacheSize: string
  readonly detach?: boolean
}

export const bootCommand = verb<Flags>({
  syntax: 'boot <point> [qemu...]',
  isServer: true,
  description: 'Start a VM straight from a point. Its writes go to an overlay; words after -- go to QEMU.',
  examples: [
    '--repo /srv/backup boot web1@latest',
    '--repo /srv/backup boot web1@latest~1 --session test --memory 2G --net user -- -vga std -display vnc=127.0.0.1:1',
  ],
  options: command =>
    command
      .option('--session <name>', 'name of the session; a stopped one of that name goes on')
      .option('--memory <size>', "instead of the point's, for example 512M")
      .option('--cpus <count>', "instead of the point's")
      .option(
        '--net <network>',
        'user or bridge=BR; none without it: two copies of one machine on a LAN are a second disaster',
      )
      .option('--kernel <file>', "boot this kernel instead of the disk's boot loader")
      .option('--append <words>', "the kernel's command line")
      .option('--accel <kind>', 'kvm, tcg or auto (kvm where it really works)', 'auto')
      .option('--cache-size <size>', 'memory for decoded chunks', '256MiB')
      .option('--detach', 'leave the VM to the session and return at its first read'),
  async run(invocation, [text = '', ...extra], flags) {
    if (flags.detach) return detach(invocation, flags)
    const { output, signal, surroundings } = invocation
    await using opened = await invocation.openRepository()
    const { reference, point } = await pointToRead(invocation, opened, text)
    if (reference.disk !== undefined)
      throw new LifeboatError('usage', 'boot takes a whole point, without a disk', {
        hint: `boot ${text.split('/')[0]}`,
      })
    const session = flags.session ?? inventSessionName(point.vm, surroundings.random)
    await using running = await bootPoint({
      repository: opened.repository,
      point,
      session,
      resume: await isThere(invocation, session),
      exporter: nbdExporter(surroundings.clock, output),
      cache: new ChunkCache({ maxBytes: parseBytes(flags.cacheSize, '--cache-size') }),
      figures: () => flatFigures(opened.meter.figures()),
      stateDir: invocation.stateDir,
      runDir: runDirOf(invocation),
      clock: surroundings.clock,
      random: surroundings.random,
      memoryBytes: flags.memory === undefined ? undefined : parseBytes(flags.memory, '--memory'),
      cpus: flags.cpus === undefined ? undefined : parseCpus(flags.cpus),
      accelerator: parseAccelerator(flags.accel ?? 'auto'),
      network: parseNetwork(flags.net),
      kernel: flags.kernel,
      append: flags.append,
      extra,
      signal,
    })
    announce(invocation, running)
    // Awaited here: what is returned un-awaited outlives `running`.
    return await untilItEnds(invocation, running)
  },
})

/** One that is there goes on; whether it may (it may be running) is found out when it is opened. */
async function isThere({ stateDir }: Invocation, name: string): Promise<boolean> {
  const { listSessions } = await import('../recovery/session.ts')
  return (await listSessions(stateDir)).some(session => session.name === name)
}

function announce({ output }: Invocation, running: RunningBoot): void {
  for (const warning of running.warnings) output.warning(warning)
  const { session, pid, qmp, serial, agent, accelerator, secondsToFirstRead } = running
  output.result({ session, pid, qmp, serial, agent, accelerator, secondsToFirstRead }, () => {
    const first = secondsToFirstRead === undefined ? '' : `, first read after ${formatSeconds(secondsToFirstRead)}`
    output.line(`session ${session} runs (QEMU ${pid}, ${accelerator}${first})`)
    output.line(`  console: socat - UNIX-CONNECT:${serial}`)
    output.line(`  QMP:     ${qmp}`)
    output.line(`Ctrl-C ends it; its writes stay until: lifeboat session discard ${session}`)
  })
}

async function untilItEnds({ output, signal }: Invocation, running: RunningBoot): Promise<number> {
  const stopped = new Promise<undefined>(resolve => {
    if (signal.aborted) resolve(undefined)
    else signal.addEventListener('abort', () => resolve(undefined), { once: true })
  })
  const exit = await Promise.race([running.ended, stopped])
  await running.stop()
  if (exit?.said) output.message(`QEMU said: ${exit.said}`)
  const { bytesRead, bytesFetched } = running.figures()
  output.message(
    `session ${running.session} stopped: the guest read ${formatBytes(bytesRead)}, ${formatBytes(bytesFetched)} were fetched`,
  )
  return exit === undefined || exit.code === 0 ? exitCode.done : exitCode.failed
}

function parseCpus(text: string): number {
  const cpus = Number(text)
  if (Number.isInteger(cpus) && cpus >= 1 && cpus <= 512) return cpus
  throw new LifeboatError('usage', `--cpus ${text} is no number from 1 to 512`, {
    hint: "leave it out for the point's own number",
  })
}

function parseAccelerator(text: string): 'kvm' | 'tcg' | 'auto' {
  if (text === 'kvm' || text === 'tcg' || text === 'auto') return text
  throw new LifeboatError('usage', `--accel ${text} is not known`, { hint: 'kvm, tcg and auto are' })
}

function parseNetwork(text: string | undefined) {
  if (text === undefined || text === 'none') return { kind: 'none' } as const
  if (text === 'user') return { kind: 'user' } as const
  const bridge = /^bridge=([A-Za-z0-9._-]{1,15})$/.exec(text)?.[1]
  if (bridge) return { kind: 'bridge', bridge } as const
  throw new LifeboatError('usage', `--net ${text} is not known`, { hint: 'user and bridge=BR are' })
}

/**
 * Starts the same command line without --detach as a process group of its own, waits for what it says at the guest's first
 * read, and leaves it alone. Its messages go to a file that the session's folder outlives.
 */
async function detach(invocation: Invocation, flags: Flags): Promise<number> {
  const { output, surroundings } = invocation
  const logs = path.join(invocation.stateDir, 'logs')
  await mkdir(logs, { recursive: true, mode: 0o700 })
  const session = flags.session ?? inventSessionName('boot', surroundings.random)
  const file = path.join(logs, `${session}.log`)
  await using log = await open(file, 'a', 0o600)
  const words = process.argv.slice(2).filter(word => word !== '--detach' && word !== '--json')
  const [program = '', main = ''] = [process.execPath, process.argv[1]]
  const child = spawn(program, [main, '--json', ...withSession(words, flags.session, session)], {
    detached: true,
    stdio: ['ignore', 'pipe', log.fd],
  })
  const { stdout } = child
  const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
  const line = await new Promise<string | undefined>((resolve, reject) => {
    let text = ''
    stdout?.on('data', (part: Buffer) => {
      text += part.toString()
      const end = text.indexOf('\n')
      if (end >= 0) resolve(text.slice(0, end))
    })
    child.on('error', reject).on('close', () => resolve(undefined))
  })
  const answer: unknown = line === undefined ? undefined : JSON.parse(line)
  if (typeof answer !== 'object' || answer === null || 'error' in answer) {
    const code = await ended
    output.result(answer ?? { error: { code: 'internal', message: `it ended with ${code}` } }, () => {})
    output.error(`the VM did not start; what was said is in ${file}:\n${(await readFile(file, 'utf8')).slice(-2000)}`)
    return code ?? exitCode.failed
  }
  stdout?.destroy()
  child.unref()
  output.result(answer, () => output.line(`session ${session} runs by itself; its messages are in ${file}`))
  return exitCode.done
}

/** QEMU's words come after --, so that the session's name goes before them. */
function withSession(words: readonly string[], given: string | undefined, session: string): string[] {
  if (given !== undefined) return [...words]
  const at = words.indexOf('--')
  const before = at < 0 ? words : words.slice(0, at)
  return [...before, '--session', session, ...(at < 0 ? [] : words.slice(at))]
}
