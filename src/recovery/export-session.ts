/**
 * An export that outlives its server: `export --session`. Its point stays pinned, what clients write goes to overlays in the
 * session's folder, and whoever resumes it serves the same disks at the same address.
 */
import path from 'node:path'
import type { ChunkCache } from '../cache/chunk-cache.ts'
import { hex } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PointSummary, Repository } from '../repository/repository.ts'
import type { OlderPoints } from './disk-contexts.ts'
import { exportPoint, type RunningExport } from './export.ts'
import type { Exporter } from './exporter.ts'
import { type HydrateRequest, hydrationOf, keptHydrate } from './hydration.ts'
import type { LiveSession, SessionFigures } from './live-session.ts'
import type { OpenOverlays } from './overlays.ts'
import { createSession, openSession, type Session, type SessionPlace } from './session.ts'
import { beginState, pinOf, undo, undoStart } from './session-begin.ts'
import { type SessionCommands, sessionCommands } from './session-commands.ts'
import { hostSession } from './session-host.ts'
import { refuseUnresumable } from './session-refusals.ts'
import type { SessionServe } from './session-state.ts'
import { step } from './session-step.ts'
import { TracedSession, type VmTraces } from './traced-session.ts'

export interface ExportSessionRequest extends AbortOptions, SessionPlace {
  readonly repository: Repository
  readonly point: PointSummary
  readonly session: string
  /** Goes on with a session of that name that nobody serves. */
  readonly resume?: boolean
  /** Of a new session: all disks of the point where none are named. */
  readonly disks?: readonly string[]
  /** Default: that of the session that resumes, and a socket in the folder of a new one. */
  readonly listen?: SessionServe['listen']
  /** Of a new session. Needs `openOverlays`. */
  readonly writable?: boolean
  /** Words that the exporter was made with, kept for those who resume. Default: those of the session that resumes. */
  readonly options?: Readonly<Record<string, string>>
  readonly openOverlays: OpenOverlays
  readonly exporter: Exporter
  readonly cache: ChunkCache
  /** What earlier boots of this VM touched; absent: it is not asked, and not told. */
  readonly traces?: VmTraces
  readonly older?: OlderPoints
  /** Copies the point to this host; a session that was begun so keeps to it. */
  readonly hydrate?: HydrateRequest
  /** Told of what a person should know while it runs. */
  readonly tell?: (message: string) => void
  readonly commands?: SessionCommands
  /** More numbers for the session's state, by name. */
  readonly figures?: () => Readonly<Record<string, number>>
}

export interface RunningExportSession extends AsyncDisposable {
  readonly session: string
  readonly live: LiveSession
  readonly uris: readonly string[]
  readonly warnings: readonly string[]
  readonly figures: () => SessionFigures
  /** Resolves when a command has ended the session. */
  readonly ended: Promise<unknown>
  readonly stop: (by?: 'shutdown') => Promise<void>
}

/** Resolves once clients are accepted. What fails before that is undone, but for what an earlier run of the session took. */
export async function exportSession(request: ExportSessionRequest): Promise<RunningExportSession> {
  const session = await (request.resume ? openSession : createSession)(request, request.session)
  const before = session.state()
  let mayUndo = !request.resume
  try {
    return await serve(request, session, () => {
      mayUndo = false
    })
  } catch (error) {
    if (mayUndo) await undo(request.repository, session)
    else await undoStart(session, before)
    await session[Symbol.asyncDispose]()
    throw error
  }
}

async function serve(
  request: ExportSessionRequest,
  session: Session,
  clientsMayWrite: () => void,
): Promise<RunningExportSession> {
  const { repository, exporter, cache, older, clock, random, signal, commands = sessionCommands } = request
  const before = session.state()
  if (before) refuseUnresumable(before, 'export', request.point)
  await using stack = new AsyncDisposableStack()
  const newPinId = hex(random(8))
  const planned = serveOf(request, session)
  const hydrate = keptHydrate(request.hydrate)
  await beginState(session, request, { kind: 'export', newPinId, serve: planned, hydrate })
  step('export written down')
  const traced = new TracedSession({
    traces: request.traces,
    clock,
    cacheBytes: cache.maxBytes,
    store: before ? 'never' : 'if-none',
  })
  const hydration = hydrationOf(session, request, () => traced.isBusy)
  const exported = stack.use(
    await exportPoint({
      repository,
      point: request.point,
      disks: planned.disks,
      exporter,
      cache,
      older,
      signal,
      listen: planned.listen,
      pin: 'session',
      pinId: before?.point.pin,
      newPinId,
      onRead: traced.onRead,
      onWait: traced.onWait,
      hydration,
      overlays: planned.writable
        ? disks => openOverlaysOf(session, planned, request.openOverlays, disks, signal)
        : undefined,
    }),
  )
  stack.use(traced)
  traced.begin(exported)
  hydration?.begin()
  step('serving')
  if (before || planned.writable) {
    exported.point.keepPin()
    clientsMayWrite()
  }
  const listen = actualAddress(planned.listen, exported)
  await session.update(({ stoppedBy: _, ...state }) => ({
    ...state,
    ...pinOf(state, exported),
    state: 'running',
    disks: exported.disks.map(({ name, size }) => ({
      name,
      size,
      ...(planned.writable && { overlay: { path: overlayFolder(session.folder), format: 'lifeboat' } }),
    })),
    sockets: { ...('socket' in listen && { nbd: listen.socket }) },
    serve: { ...planned, listen },
    figures: {},
  }))
  exported.point.keepPin()
  const owned = stack.move()
  const figures = () => ({ ...request.figures?.(), ...traced.figures(), ...hydration?.figures() })
  const close = () => owned.disposeAsync()
  const parts = { session, repository, opened: exported, clock, random, figures, close }
  const { live, ended, stop } = await hostSession(parts, commands)
  return {
    session: session.name,
    live,
    uris: exported.uris,
    warnings: [
      ...(exported.point.pinned ? [] : ['the point could not be pinned: it is safe from gc for its grace only']),
      ...(exported.overlays?.warning === undefined ? [] : [exported.overlays.warning]),
    ],
    figures: () => live.figures(),
    ended,
    stop,
    [Symbol.asyncDispose]: () => stop(),
  }
}

function serveOf({ listen, writable = false, disks, options }: ExportSessionRequest, session: Session): SessionServe {
  const before = session.state()?.serve
  if (before) return { ...before, ...(listen && { listen }), ...(options && { options }) }
  return {
    listen: listen ?? { socket: session.socketPath('nbd') },
    writable,
    ...(disks && { disks }),
    ...(options && { options }),
  }
}

export const overlayFolder = (folder: string): string => path.join(folder, 'overlay')

export const openOverlaysOf = (
  session: Pick<Session, 'folder' | 'name' | 'state'>,
  { listen }: SessionServe,
  open: OpenOverlays,
  disks: RunningExport['disks'],
  signal: AbortSignal | undefined,
) => {
  const { folder, name } = session
  const { point, created } = session.state() ?? {}
  // The same for as long as the session lives: a commit changes its point, and the overlay's order of the two is not ours to know.
  const baseLabel = `${point?.vm} of session ${name}, begun ${created}`
  return open({ folder: overlayFolder(folder), disks, durableReplies: 'host' in listen, baseLabel, signal })
}

/** A port that the system chose stays the session's: its clients come back to it. */
function actualAddress(planned: SessionServe['listen'], { uris }: RunningExport): SessionServe['listen'] {
  if ('socket' in planned || planned.port !== 0) return planned
  return { host: planned.host, port: Number(new URL(uris[0] ?? '').port) }
}
