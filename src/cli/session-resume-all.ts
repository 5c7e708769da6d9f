/**
 * `session resume --all`: what ran before a crash or a boot of the host runs again, each by a process of its own (or by its
 * unit, with --systemd). Stopped sessions stay stopped, but for those that went down with the host.
 */
import { forEachLimited } from '../core/scope.ts'
import { hostBootId } from '../recovery/accelerator.ts'
import { runTool } from '../recovery/external-tool.ts'
import { listSessions, type SessionSummary } from '../recovery/session.ts'
import { ownWords, startDetached } from './detached.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'

interface Outcome {
  readonly name: string
  readonly outcome: 'resumed' | 'runs' | 'failed'
  /** The host has booted since the session was last served. */
  readonly afterReboot: boolean
  readonly why?: string
}

/** Each starts a QEMU, which is work for a processor until its guest is up. */
const STARTED_AT_ONCE = 4

export async function resumeAll(
  invocation: Invocation,
  { systemd = false }: { readonly systemd?: boolean },
): Promise<number> {
  const { output, signal } = invocation
  const bootId = await hostBootId()
  const outcomes = new Map<string, Outcome>()
  const resume = async (summary: SessionSummary) => {
    const { name, session, owner, problem } = summary
    const about = { name, afterReboot: session !== undefined && session.bootId !== bootId }
    if (owner !== undefined) return void outcomes.set(name, { ...about, outcome: 'runs' })
    if (problem !== undefined || summary.state === 'unfinished') {
      const why = problem ?? 'its start was interrupted before there was anything to resume: discard it'
      return void outcomes.set(name, { ...about, outcome: 'failed', why })
    }
    const why = await (systemd ? startUnit(name, signal) : startProcess(invocation, name))
    outcomes.set(name, why === undefined ? { ...about, outcome: 'resumed' } : { ...about, outcome: 'failed', why })
  }
  const wanted = (await listSessions(invocation.stateDir)).filter(isWanted)
  await forEachLimited(wanted, STARTED_AT_ONCE, resume, { signal })
  const sessions = wanted.flatMap(({ name }) => outcomes.get(name) ?? [])
  output.result({ sessions }, () => {
    if (sessions.length === 0) output.line('nothing was running')
    for (const { name, outcome, afterReboot, why } of sessions)
      output.line(
        `${name}: ${textOf[outcome]}${afterReboot ? ' (after a boot of the host)' : ''}${why ? `: ${why}` : ''}`,
      )
  })
  return sessions.some(({ outcome }) => outcome === 'failed') ? exitCode.partly : exitCode.done
}

const textOf = { resumed: 'runs again', runs: 'runs', failed: 'could not be brought back' }

/** What has no owner and did not end of its own will. */
const isWanted = ({ state, session, owner }: SessionSummary): boolean =>
  owner !== undefined ||
  state === 'crashed' ||
  state === 'unfinished' ||
  state === 'damaged' ||
  (state === 'stopped' && session?.stoppedBy === 'shutdown')

/** Why it could not, or undefined. */
async function startProcess(invocation: Invocation, name: string): Promise<string | undefined> {
  const words = ownWords('--systemd').map(word => (word === '--all' ? name : word))
  const { answer, code, log } = await startDetached(invocation, name, words)
  return code === undefined ? undefined : `${messageIn(answer)} (${log})`
}

function messageIn(answer: object): string {
  const error = 'error' in answer ? answer.error : undefined
  return typeof error === 'object' && error !== null && 'message' in error ? String(error.message) : 'it said nothing'
}

async function startUnit(name: string, signal: AbortSignal): Promise<string | undefined> {
  const unit = `lifeboat-session@${name}.service`
  const { code, stderr } = await runTool('systemctl', ['start', unit], { signal })
  return code === 0 ? undefined : `${stderr.trim() || `systemctl ended with ${code}`} (journalctl -u ${unit})`
}
