/** `export --session`: served until SIGTERM as any export, and resumed with its writes. */
import { LifeboatError } from '../core/errors.ts'
import { exportSession, type RunningExportSession } from '../recovery/export-session.ts'
import { listSessions } from '../recovery/session.ts'
import type { SessionServe, SessionState } from '../recovery/session-state.ts'
import type { PointSummary } from '../repository/repository.ts'
import { olderPoints } from './changed-since.ts'
import { exitCode } from './exit-code.ts'
import { type LimitFlags, limitWordsOf, serverLimits } from './export-limits.ts'
import { type ListenFlags, listenAt, passedSocket, securityOf } from './export-listen.ts'
import { notifyReady, stoppedBy } from './host-stopping.ts'
import { type HydrateFlags, hydrateOf } from './hydrate.ts'
import type { Invocation } from './invocation.ts'
import type { LiveRepository } from './live-reads.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { openOverlays } from './overlays.ts'
import type { Resumed } from './resumed.ts'
import { commandsOf } from './session-exits.ts'
import { sessionPlace } from './session-place.ts'

export interface ExportSessionFlags extends ListenFlags, LimitFlags, HydrateFlags {
  readonly session: string
  readonly writable?: boolean
}

export interface SessionPoint {
  readonly point: PointSummary
  readonly older: readonly PointSummary[]
  /** All of the point's where it is absent. */
  readonly disks?: readonly string[]
}

/** Goes on with the session where there is one of that name. */
export async function serveExportSession(
  invocation: Invocation,
  opened: LiveRepository,
  at: SessionPoint,
  flags: ExportSessionFlags,
): Promise<number> {
  const { session: name } = flags
  const { point, older } = at
  const known = (await listSessions(invocation.stateDir)).find(session => session.name === name)
  if (flags.writable && known?.session?.serve?.writable === false)
    throw new LifeboatError('usage', `session ${name} was begun without --writable, and takes no writes`, {
      hint: 'begin another one with --writable, or leave --writable out',
    })
  const options = optionsOf(flags, known?.session?.serve?.options)
  await using running = await exportSession({
    ...sessionPlace(invocation),
    ...(await serving(
      invocation,
      { ...opened, point, older: olderPoints(opened.repository, point.vm, older) },
      options,
    )),
    session: name,
    resume: known !== undefined,
    disks: at.disks,
    writable: flags.writable,
    listen: placeOf(flags, invocation),
    options,
    hydrate: hydrateOf(flags),
  })
  return await serve(invocation, running)
}

export async function resumeExport(invocation: Invocation, opened: Resumed, state: SessionState): Promise<number> {
  const options = state.serve?.options ?? {}
  await using running = await exportSession({
    ...sessionPlace(invocation),
    ...(await serving(invocation, opened, options)),
    session: state.name,
    resume: true,
  })
  return await serve(invocation, running)
}

async function serving(
  invocation: Invocation,
  { repository, point, older, cache, figures, traces }: Resumed,
  options: Options,
) {
  const { surroundings, output, signal } = invocation
  const security = await securityOf(flagsOf(options), surroundings.clock.now())
  return {
    repository,
    point,
    exporter: nbdExporter(surroundings.clock, output, security, serverLimits(options)),
    cache,
    traces: traces(point.vm),
    older,
    openOverlays,
    commands: commandsOf(invocation),
    figures,
    tell: (message: string) => output.warning(message),
    signal,
  }
}

/** Undefined where nothing was said: then the session's own place is meant. */
function placeOf(flags: ExportSessionFlags, { surroundings }: Invocation): SessionServe['listen'] | undefined {
  const { environment } = surroundings
  const isNamed = flags.socket !== undefined || flags.listen !== undefined
  if (!isNamed && passedSocket(environment) === undefined) return undefined
  const listen = listenAt(flags, environment)
  if (!('descriptor' in listen)) return listen
  throw new LifeboatError('usage', 'a session listens at an address of its own', { hint: 'say --socket or --listen' })
}

type Options = NonNullable<SessionServe['options']>

/** Who goes on with a session need not say again how it is served. Who may come is said as a whole, each bound by itself. */
function optionsOf(flags: ExportSessionFlags, before: Options = {}): Options {
  const { tls, 'tls-verify': verify, insecure, ...bounds } = before
  const security = securityWordsOf(flags)
  const secured = Object.keys(security).length > 0 ? security : securityWordsOf(flagsOf(before))
  return { ...bounds, ...secured, ...limitWordsOf(flags) }
}

function securityWordsOf({ tls, tlsVerify, insecure }: ListenFlags): Options {
  return {
    ...(tls !== undefined && { tls }),
    ...(tlsVerify && { 'tls-verify': 'yes' }),
    ...(insecure && { insecure: 'yes' }),
  }
}

function flagsOf({ tls, ...words }: Options): ListenFlags {
  return { tls, tlsVerify: words['tls-verify'] === 'yes', insecure: words.insecure === 'yes' }
}

async function serve(invocation: Invocation, running: RunningExportSession): Promise<number> {
  const { output, signal } = invocation
  for (const warning of running.warnings) output.warning(warning)
  output.result({ uris: running.uris, session: running.session }, () => {
    for (const uri of running.uris) output.line(uri)
  })
  await notifyReady(invocation)
  const stopped = Promise.withResolvers<'stopped'>()
  const onAbort = () => stopped.resolve('stopped')
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort, { once: true })
  // Nothing else keeps the process alive should the server's last handle be closed by a fault.
  const alive = setInterval(() => {}, 1 << 30)
  await Promise.race([running.ended, stopped.promise])
  await running.stop(await stoppedBy(invocation))
  clearInterval(alive)
  signal.removeEventListener('abort', onAbort)
  return exitCode.done
}
