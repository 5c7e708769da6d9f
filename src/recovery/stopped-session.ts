/** A stopped session in the hands of a command: its lock, its point and its overlays, without servers and without a guest. */
import type { ChunkCache } from '../cache/chunk-cache.ts'
import { LifeboatError } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PointSummary, Repository } from '../repository/repository.ts'
import { openDisks } from './export.ts'
import { openOverlaysOf } from './export-session.ts'
import type { OpenOverlays } from './overlays.ts'
import { OwnedSession } from './owned-session.ts'
import { guestOf, openSession, type SessionPlace } from './session.ts'
import { beginState, pinOf } from './session-begin.ts'
import { refuseUnresumable } from './session-refusals.ts'

export interface StoppedSessionRequest extends AbortOptions, SessionPlace {
  readonly repository: Repository
  readonly point: PointSummary
  readonly session: string
  readonly cache: ChunkCache
  readonly openOverlays: OpenOverlays
}

/** End it with `end('stopped')` unless the command has ended it otherwise. Throws 'session-busy' where a guest lives that nobody serves. */
export async function openStoppedSession(request: StoppedSessionRequest): Promise<OwnedSession> {
  const { repository, point, cache, openOverlays, clock, random, signal } = request
  const session = await openSession(request, request.session)
  await using stack = new AsyncDisposableStack()
  stack.use(session)
  const before = session.state()
  if (!before) throw new LifeboatError('internal', `session ${session.name} has no state`)
  refuseUnresumable(before, before.kind, point)
  if (await guestOf(session.folder, before))
    throw new LifeboatError('session-busy', `the guest of session ${session.name} runs, and nobody serves its disks`, {
      hint: `Go on with it first: lifeboat session resume ${session.name}`,
    })
  const newPinId = hex(random(8))
  await beginState(session, request, { kind: before.kind, newPinId, isStart: false })
  const { serve } = before
  const opened = stack.use(
    await openDisks({
      repository,
      point,
      disks: serve?.disks,
      cache,
      signal,
      pin: 'session',
      pinId: before.point.pin,
      newPinId,
      overlays: serve?.writable ? disks => openOverlaysOf(session, serve, openOverlays, disks, signal) : undefined,
    }),
  )
  opened.point.keepPin()
  await session.update(state => ({ ...state, ...pinOf(state, opened) }))
  stack.move()
  const live = new OwnedSession({
    session,
    repository,
    opened,
    clock,
    random,
    isServing: false,
    close: async () => void (await opened[Symbol.asyncDispose]()),
  })
  await live.dropOtherPins()
  return live
}
