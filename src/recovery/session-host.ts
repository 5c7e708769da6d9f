/**
 * What keeps a session alive in this process: the control socket in front of the commands, and the ways that the session
 * ends: QEMU does, a command ends it, or this process is told to stop.
 */
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { type ControlSocket, serveControl } from './control-socket.ts'
import { OwnedSession, type SessionParts } from './owned-session.ts'
import type { QemuExit } from './qemu-process.ts'
import { CONTROL_SOCKET } from './session.ts'
import { CommandRunner, type SessionCommands } from './session-commands.ts'

export interface SessionHost extends AsyncDisposable {
  readonly live: OwnedSession
  /** How QEMU ended; undefined where a command has ended the session. Never rejects. */
  readonly ended: Promise<QemuExit | undefined>
  /** Ends QEMU, then the servers; the session stays with its overlays and its pin. Dispose does the same. */
  readonly stop: (by?: 'shutdown') => Promise<void>
}

/** The session is served already; from now on it can be asked and ended. */
export async function hostSession(
  parts: Omit<SessionParts, 'isServing'>,
  commands: SessionCommands,
): Promise<SessionHost> {
  const live = new OwnedSession({ ...parts, isServing: true })
  await live.dropOtherPins()
  const runner = new CommandRunner(live, commands)
  const endedByCommand = Promise.withResolvers<undefined>()
  const control: ControlSocket = await serveControl({
    path: path.resolve(parts.session.socketPath(CONTROL_SOCKET)),
    clock: parts.clock,
    async run(command, request, options) {
      try {
        return await runner.run(command, request, options)
      } finally {
        if (live.isEnding) endedByCommand.resolve(undefined)
      }
    },
  })
  const qemuEnded = live.qemu?.ended.then(exit => (live.isEnding ? endedByCommand.promise : exit))
  let stopping: Promise<void> | undefined
  const stop = async (by?: 'shutdown') => {
    // A command that ends the session has gone too far to be taken back: it is waited for, and its answer goes out.
    if (live.isEnding) await control.idle()
    const hint = `When it is resumed (lifeboat session resume ${live.name}), ask again.`
    await control.close(new LifeboatError('interrupted', `session ${live.name} is being stopped`, { hint }))
    await live.end('stopped', by)
  }
  const stopOnce = (by?: 'shutdown') => {
    stopping ??= stop(by)
    return stopping
  }
  return {
    live,
    ended: Promise.race([endedByCommand.promise, ...(qemuEnded ? [qemuEnded] : [])]),
    stop: stopOnce,
    [Symbol.asyncDispose]: () => stopOnce(),
  }
}
