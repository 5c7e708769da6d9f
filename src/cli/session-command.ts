/** Carries out a command on a session: by its owner where it is live, by this process where it is stopped. */
import { ChunkCache } from '../cache/chunk-cache.ts'
import { limits } from '../core/limits.ts'
import { askSession } from '../recovery/control-client.ts'
import type { Fields } from '../recovery/control-protocol.ts'
import { controlSocketOf, knownSession, showSession } from '../recovery/session.ts'
import { CommandRunner, type SessionCommands } from '../recovery/session-commands.ts'
import { openStoppedSession } from '../recovery/stopped-session.ts'
import type { Invocation } from './invocation.ts'
import { openOverlays } from './overlays.ts'
import { sessionPlace } from './session-place.ts'
import { openRepositoryOf, pointOf } from './session-repository.ts'

export interface SessionCall {
  readonly session: string
  readonly command: string
  readonly request?: Fields
  readonly commands: SessionCommands
  readonly progress?: (progress: Fields) => void
}

const CACHE_BYTES = 64 * 1024 * 1024

export async function callSession(asked: Invocation, call: SessionCall): Promise<Fields> {
  const { session: name, command, request = {}, commands, progress = () => {} } = call
  const { signal, stateDir, surroundings } = asked
  const { session: known, owner } = await showSession(stateDir, name)
  if (owner !== undefined)
    return await askSession({
      socket: controlSocketOf(stateDir, name, known),
      command,
      request,
      progress,
      connectMs: limits.sessionConnectMs,
      clock: surroundings.clock,
      signal,
    })
  const state = known ?? (await knownSession(stateDir, name))
  const invocation = asked.at(state.repository.url)
  await using opened = await openRepositoryOf(state, () => invocation.openRepository())
  const live = await openStoppedSession({
    ...sessionPlace(invocation),
    repository: opened.repository,
    point: await pointOf(opened, state, signal),
    session: name,
    cache: new ChunkCache({ maxBytes: CACHE_BYTES }),
    openOverlays,
    signal,
  })
  try {
    return await new CommandRunner(live, commands).run(command, request, { signal, progress })
  } finally {
    // One that the command has ended already stays as it is.
    await live.end('stopped')
  }
}
