/** What a session has to do with systemd: whether the host is going down, and that a unit's start has come to its end. */
import { access } from 'node:fs/promises'
import { messageOf } from '../core/errors.ts'
import { runTool } from '../recovery/external-tool.ts'
import type { Invocation } from './invocation.ts'

const ANSWER_MS = 5_000

/** False where another init runs this host, and where it does not answer. */
export async function isHostStopping(): Promise<boolean> {
  try {
    await access('/run/systemd/system')
    const signal = AbortSignal.timeout(ANSWER_MS)
    return (await runTool('systemctl', ['is-system-running'], { signal })).stdout.trim() === 'stopping'
  } catch {
    return false
  }
}

/** For units of Type=notify: `systemctl start` then waits until the session runs, and says when it could not. */
export async function notifyReady({ surroundings, output }: Invocation): Promise<void> {
  if (surroundings.environment.NOTIFY_SOCKET === undefined) return
  const { code, stderr } = await runTool('systemd-notify', ['--ready']).catch(error => ({
    code: -1,
    stderr: messageOf(error),
  }))
  if (code !== 0) output.warning(`systemd was not told that the session runs: ${stderr}`)
}

/** What stopped this process, for the session's state: a session that went down with its host comes back with it. */
export async function stoppedBy({ surroundings, signal }: Invocation): Promise<'shutdown' | undefined> {
  if (!signal.aborted) return undefined
  return (await surroundings.isHostStopping?.()) ? 'shutdown' : undefined
}
