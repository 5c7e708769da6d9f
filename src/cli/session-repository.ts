/** The repository and the point that a session remembers. */
import { LifeboatError } from '../core/errors.ts'
import type { SessionState } from '../recovery/session-state.ts'
import type { PointSummary } from '../repository/repository.ts'
import type { OpenedRepository } from './invocation.ts'

/** Throws 'usage' where the repository that was named is another one. */
export async function openRepositoryOf<T extends OpenedRepository>(
  { name, repository: { id, url } }: Pick<SessionState, 'name' | 'repository'>,
  open: () => Promise<T>,
): Promise<T> {
  const opened = await open()
  if (opened.repository.id === id) return opened
  await opened[Symbol.asyncDispose]()
  throw new LifeboatError('usage', `session ${name} belongs to the repository at ${url}`, {
    hint: 'leave --repo and LIFEBOAT_REPO out, or name that one',
  })
}

/** Throws 'no-such-point'. */
export async function pointOf(
  { repository }: OpenedRepository,
  { name, point: { id, vm } }: Pick<SessionState, 'name' | 'point'>,
  signal: AbortSignal,
): Promise<PointSummary> {
  const found = (await repository.points({ vm, all: true, signal })).find(point => point.id === id)
  if (found) return found
  throw new LifeboatError('no-such-point', `point ${vm}@${id} of session ${name} is not there any more`, {
    details: { point: id },
    hint: `What the session has written cannot be read without it: lifeboat session discard ${name}`,
  })
}
