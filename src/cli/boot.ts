import { LifeboatError } from '../core/errors.ts'
import { bootPoint, type RunningBoot } from '../recovery/boot.ts'
import { inventSessionName } from '../recovery/session.ts'
import { olderPoints } from './changed-since.ts'
import { detach, ownWords } from './detached.ts'
import { exitCode } from './exit-code.ts'
import { notifyReady, stoppedBy } from './host-stopping.ts'
import { type HydrateFlags, hydrateOf, hydrateOptions } from './hydrate.ts'
import type { Invocation } from './invocation.ts'
import { type LiveReadFlags, liveReadOptions, openForLiveReads } from './live-reads.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { commandsOf } from './session-exits.ts'
import { sessionPlace } from './session-place.ts'
import { pointToRead } from './suspect-points.ts'
import { formatBytes, formatSeconds, parseBytes } from './units.ts'
import { verb } from './verb.ts'

interface Flags extends LiveReadFlags, HydrateFlags {
  readonly session?: string
  readonly memory?: string
  readonly cpus?: string
  readonly net?: string
  readonly kernel?: string
  readonly append?: string
  readonly accel?: string
  readonly reserve?: string
  readonly trace: boolean
  readonly detach?: boolean
}

export const bootCommand = verb<Flags>({
  syntax: 'boot <point> [qemu...]',
  isServer: true,
  description: 'Start a VM straight from a point. Its writes go to an overlay; words after -- go to QEMU.',
  examples: [
    '--repo /srv/backup boot web1@latest',
    '--repo /srv/backup boot web1@latest --session test --hydrate --hydrate-rate 50MiB --detach',
    '--repo /srv/backup boot web1@latest~1 --session test --memory 2G --net user -- -vga std -display vnc=127.0.0.1:1',
  ],
  options: command =>
    hydrateOptions(liveReadOptions(command))
      .option('--session <name>', 'name of the session; one of that name goes on, and a guest that lives is taken over')
      .option('--memory <size>', "instead of the point's, for example 512M")
      .option('--cpus <count>', "instead of the point's")
      .option(
        '--net <network>',
        'user or bridge=BR; none without it: two copies of one machine on a LAN are a second disaster',
      )
      .option('--kernel <file>', "boot this kernel instead of the disk's boot loader")
      .option('--append <words>', "the kernel's command line")
      .option('--accel <kind>', 'kvm, tcg or auto (kvm where it really works)', 'auto')
      .option('--reserve <size>', 'pause the guest while less is free for its writes (2GiB)')
      .option('--no-trace', "neither read ahead what the VM's last boot touched, nor keep what this one touches")
      .option('--detach', 'leave the VM to the session and return at its first read'),
  async run(invocation, [text = '', ...extra], flags) {
    if (flags.detach) {
      const session = flags.session ?? inventSessionName('boot', invocation.surroundings.random)
      return detach(invocation, session, withSession(ownWords(), flags.session, session))
    }
    const { output, signal, surroundings } = invocation
    await using opened = await openForLiveReads(invocation, flags)
    const { reference, point, older } = await pointToRead(invocation, opened, text)
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
      cache: opened.cache,
      traces: flags.trace ? opened.traces(point.vm) : undefined,
      older: olderPoints(opened.repository, point.vm, older),
      figures: opened.figures,
      hydrate: hydrateOf(flags),
      ...sessionPlace(invocation),
      environment: surroundings.environment,
      tell: message => output.warning(message),
      commands: commandsOf(invocation),
      reserveBytes: flags.reserve === undefined ? undefined : parseBytes(flags.reserve, '--reserve'),
      memoryBytes: flags.memory === undefined ? undefined : parseBytes(flags.memory, '--memory'),
      cpus: flags.cpus === undefined ? undefined : parseCpus(flags.cpus),
      accelerator: parseAccelerator(flags.accel ?? 'auto'),
      network: parseNetwork(flags.net),
      kernel: flags.kernel,
      append: flags.append,
      extra,
      signal,
    })
    // Awaited here: what is returned un-awaited outlives `running`.
    return await serveBoot(invocation, running)
  },
})

/** One that is there goes on; whether it may (it may be running) is found out when it is opened. */
async function isThere({ stateDir }: Invocation, name: string): Promise<boolean> {
  const { listSessions } = await import('../recovery/session.ts')
  return (await listSessions(stateDir)).some(session => session.name === name)
}

/** Says that the session runs, and serves it until its guest ends, a command ends it, or this process is told to stop. */
export async function serveBoot(invocation: Invocation, running: RunningBoot): Promise<number> {
  announce(invocation, running)
  await notifyReady(invocation)
  return await untilItEnds(invocation, running)
}

function announce({ output }: Invocation, running: RunningBoot): void {
  for (const warning of running.warnings) output.warning(warning)
  const { session, pid, qmp, serial, agent, accelerator, secondsToFirstRead, isTakenOver } = running
  output.result({ session, pid, qmp, serial, agent, accelerator, secondsToFirstRead, takenOver: isTakenOver }, () => {
    const first = secondsToFirstRead === undefined ? '' : `, first read after ${formatSeconds(secondsToFirstRead)}`
    const how = isTakenOver ? 'goes on, its guest never stopped' : 'runs'
    output.line(`session ${session} ${how} (QEMU ${pid}, ${accelerator}${first})`)
    output.line(`  console: socat - UNIX-CONNECT:${serial}`)
    output.line(`  QMP:     ${qmp}`)
    output.line(`Ctrl-C ends it; its writes stay until: lifeboat session discard ${session}`)
  })
}

async function untilItEnds(invocation: Invocation, running: RunningBoot): Promise<number> {
  const { output, signal } = invocation
  const stopped = Promise.withResolvers<'stopped'>()
  const onAbort = () => stopped.resolve('stopped')
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort, { once: true })
  // Nothing else keeps the process alive while a QEMU that is not its child runs and nobody asks for anything.
  const alive = setInterval(() => {}, 1 << 30)
  const exit = await Promise.race([running.ended, stopped.promise])
  await running.stop(exit === 'stopped' ? await stoppedBy(invocation) : undefined)
  clearInterval(alive)
  signal.removeEventListener('abort', onAbort)
  if (exit === undefined) {
    output.message(`session ${running.session} has ended`)
    return exitCode.done
  }
  if (exit !== 'stopped' && exit.said) output.message(`QEMU said: ${exit.said}`)
  const { bytesRead, bytesFetched } = running.figures()
  output.message(
    `session ${running.session} stopped: the guest read ${formatBytes(bytesRead)}, ${formatBytes(bytesFetched)} were fetched`,
  )
  // Of a QEMU that was not our child nobody knows the exit code.
  return exit === 'stopped' || exit.code === 0 || (exit.code === null && exit.signal === null)
    ? exitCode.done
    : exitCode.failed
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

/** QEMU's words come after --, so that the session's name goes before them. */
function withSession(words: readonly string[], given: string | undefined, session: string): string[] {
  if (given !== undefined) return [...words]
  const at = words.indexOf('--')
  const before = at < 0 ? words : words.slice(0, at)
  return [...before, '--session', session, ...(at < 0 ? [] : words.slice(at))]
}
