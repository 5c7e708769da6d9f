/** The first state of a session, and whether a session that is there may go on. */
import type { PointSummary, Repository } from '../repository/repository.ts'
import { hostBootId } from './accelerator.ts'
import type { OpenedDisks } from './export.ts'
import { pinsOf, type Session, type SessionPlace } from './session.ts'
import type { SessionServe, SessionState } from './session-state.ts'

/**
 * Writes the session down before there is anything in the repository for it. `newPinId` is that of the pin that is put next,
 * or that of one that is put if the old one is gone.
 */
export async function beginState(
  session: Session,
  { repository, point, clock }: SessionPlace & { readonly repository: Repository; readonly point: PointSummary },
  {
    kind,
    newPinId,
    serve,
    hydrate,
    isStart = true,
  }: {
    readonly kind: SessionState['kind']
    readonly newPinId: string
    readonly serve?: SessionServe
    readonly hydrate?: SessionState['hydrate']
    /** False for a command that takes a stopped session into its hands. */
    readonly isStart?: boolean
  },
): Promise<void> {
  const bootId = await hostBootId()
  if (session.state()) {
    await session.update(({ otherPins = [], ...state }) => ({
      ...state,
      ...(isStart && { state: 'starting' }),
      ...(hydrate && { hydrate }),
      bootId,
      otherPins: [...otherPins, newPinId],
    }))
    return
  }
  const now = clock.now().toISOString()
  await session.save({
    name: session.name,
    kind,
    state: 'starting',
    repository: { url: repository.store.url, id: repository.id },
    point: { id: point.id, key: point.key, vm: point.vm, pin: newPinId },
    created: now,
    updated: now,
    bootId,
    disks: [],
    sockets: {},
    ...(session.runDir !== undefined && { runDir: session.runDir }),
    ...(serve && { serve }),
    ...(hydrate && { hydrate }),
    figures: {},
  })
}

/** Where a pin cannot be removed the session stays, so that it can be discarded, and its pin with it. */
export async function undo(repository: Repository, session: Session): Promise<void> {
  const state = session.state()
  try {
    for (const pin of state ? pinsOf(state) : []) await repository.dropPin(pin)
    await session.remove()
  } catch {}
}

/** A start that failed leaves a session that is there as it was: stopped, or crashed, with a guest that lives or without one. */
export async function undoStart(session: Session, before: SessionState | undefined): Promise<void> {
  if (before) await session.update(state => ({ ...state, state: before.state, bootId: before.bootId })).catch(() => {})
}

/** The pin that was found or put, for the state. The others that were written down are dropped once it stands there. */
export function pinOf(
  { point: { pin, ...point }, otherPins = [] }: SessionState,
  { point: { pinId } }: Pick<OpenedDisks, 'point'>,
): Pick<SessionState, 'point' | 'otherPins'> {
  const others = [...new Set([...otherPins, ...(pin === undefined ? [] : [pin])])].filter(id => id !== pinId)
  return { point: { ...point, ...(pinId !== undefined && { pin: pinId }) }, otherPins: others }
}
