import { stat } from 'node:fs/promises'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { askSession } from '../recovery/control-client.ts'
import {
  checkSessionName,
  controlSocketOf,
  discardSession,
  listSessions,
  pinsOf,
  readSession,
  type SessionSummary,
  showSession,
} from '../recovery/session.ts'
import { detach, ownWords } from './detached.ts'
import type { Invocation } from './invocation.ts'
import { figuresFromFlat, requestsText } from './requests.ts'
import { commitSession, type MigrateFlags, migrateSession } from './session-exits.ts'
import { sessionPlace } from './session-place.ts'
import { openRepositoryOf } from './session-repository.ts'
import { type ResumeFlags, resumeSession } from './session-resume.ts'
import { resumeAll } from './session-resume-all.ts'
import { formatBytes } from './units.ts'
import { verb } from './verb.ts'

interface Flags extends ResumeFlags, MigrateFlags {
  readonly all?: boolean
  readonly detach?: boolean
  readonly leavePin?: boolean
  readonly systemd?: boolean
}

export const sessionCommand = verb<Flags>({
  syntax: 'session <action> [name]',
  description:
    'list: all sessions of this host; show NAME: one; resume NAME: serve it again, its guest goes on; ' +
    'commit NAME: make it a new recovery point; migrate NAME: move its running VM to production storage; ' +
    'discard NAME: remove it, live or stopped, with all its writes.',
  examples: [
    'session list',
    'session show test --json',
    'session resume test --detach',
    'session resume --all',
    'session commit test',
    'session migrate test --to vda=/var/lib/vm/web1.raw --to vdb=/dev/vg/web1-data --limit-rate 200MiB',
    'session discard test',
  ],
  options: command =>
    command
      .option('--all', 'resume: all that ran before a crash or a boot of the host')
      .option('--detach', 'resume: return when it runs')
      .option('--to <[disk=]path[,format=f]>', 'migrate: a new file or a block device, for each disk', collect)
      .option('--limit-rate <rate>', 'migrate: bytes a second of each disk, for example 50MiB')
      .option('--leave-pin', 'discard: also where its repository is gone or cannot be opened; its pin stays there')
      .option('--systemd', 'resume --all: start the unit lifeboat-session@NAME of each')
      .option('--reserve <size>', 'resume: pause the guest while less is free for its writes')
      .option('--cache-size <size>', 'resume: memory for decoded chunks', '256MiB')
      .option('--disk-cache-size <size>', "resume: what of this host's disk may hold fetched chunks (8GiB)"),
  async run(invocation, [action = '', name], flags) {
    if (action === 'list' && name === undefined) return print(invocation, await listSessions(invocation.stateDir))
    if (action === 'list')
      throw new LifeboatError('usage', 'session list takes no name', { hint: `lifeboat session show ${name}` })
    if (action === 'resume' && flags.all) {
      if (name === undefined) return await resumeAll(invocation, flags)
      throw new LifeboatError('usage', 'a name and --all contradict each other', { hint: 'leave one of them out' })
    }
    if (name === undefined)
      throw new LifeboatError('usage', `session ${action} needs the name of a session`, {
        hint: '`lifeboat session list` shows them',
      })
    if (action === 'show') return print(invocation, [await shownNow(invocation, name)])
    if (action === 'resume' && flags.detach) return await detach(invocation, checkSessionName(name), ownWords())
    if (action === 'resume') return await resumeSession(invocation, name, flags)
    if (action === 'commit') return await commitSession(invocation, name)
    if (action === 'migrate') return await migrateSession(invocation, name, flags)
    if (action === 'discard') return await discard(invocation, name, flags)
    throw new LifeboatError('usage', `session ${action} is not known`, {
      hint: 'list, show, resume, commit, migrate and discard are',
    })
  },
})

const collect = (value: string, before: readonly string[] = []): string[] => [...before, value]

/** With the figures of this moment where its owner answers, else with those that it wrote down last. */
async function shownNow({ stateDir, surroundings, signal }: Invocation, name: string): Promise<SessionSummary> {
  const summary = await showSession(stateDir, name)
  const { session, owner } = summary
  if (owner === undefined || !session) return summary
  const socket = controlSocketOf(stateDir, name, session)
  const { clock } = surroundings
  const now = await askSession({ socket, command: 'show', timeoutMs: SHOW_MS, clock, signal }).catch(error => {
    if (signal.aborted) throw error
    return {}
  })
  const figures = 'figures' in now && typeof now.figures === 'object' ? now.figures : {}
  const numbers = Object.entries(figures ?? {}).filter(([, value]) => typeof value === 'number')
  return { ...summary, session: { ...session, figures: { ...session.figures, ...Object.fromEntries(numbers) } } }
}

const SHOW_MS = 5_000

/** What the overlays take on the disk: the guest's writes and some hundred KiB of qcow2's own. A file that is gone takes nothing. */
async function overlayBytes({ session }: SessionSummary): Promise<number> {
  const files = (session?.disks ?? []).flatMap(({ overlay }) => overlay?.path ?? [])
  const sizes = await Promise.all(
    files.map(file =>
      stat(file).then(
        ({ blocks }) => blocks * 512,
        () => 0,
      ),
    ),
  )
  return sizes.reduce((total, size) => total + size, 0)
}

async function print({ output }: Invocation, summaries: readonly SessionSummary[]): Promise<undefined> {
  const written = new Map<string, number>()
  for (const summary of summaries) written.set(summary.name, await overlayBytes(summary))
  const sessions = summaries.map(({ name, state, session, problem, owner, qemu }) => ({
    name,
    state,
    problem,
    server: owner,
    kind: session?.kind,
    pausedFor: session?.pausedFor,
    point: session && `${session.point.vm}@${session.point.id}`,
    repository: session?.repository.url,
    pid: qemu?.pid,
    sockets: session?.sockets,
    bytesRead: session?.figures.bytesRead ?? 0,
    bytesFetched: session?.figures.bytesFetched ?? 0,
    cacheHits: session?.figures.cacheHits ?? 0,
    bytesFromDisk: session?.figures.bytesFromDisk ?? 0,
    diskCacheHits: session?.figures.diskCacheHits ?? 0,
    getsHedged: session?.figures.getsHedged ?? 0,
    tracedChunks: session?.figures.tracedChunks,
    replayedChunks: session?.figures.replayedChunks,
    ...hydrationOf(session?.figures),
    requests: session && figuresFromFlat(session.figures),
    secondsToFirstRead: session?.figures.secondsToFirstRead,
    bytesWritten: written.get(name) ?? 0,
    created: session?.created,
    disks: session?.disks,
  }))
  output.result({ sessions }, () => {
    if (sessions.length === 0) return output.line('no sessions')
    output.table(
      [
        { title: 'SESSION' },
        { title: 'STATE' },
        { title: 'POINT' },
        { title: 'READ', align: 'right' },
        { title: 'FETCHED', align: 'right' },
        { title: 'WRITTEN', align: 'right' },
        { title: 'CREATED' },
      ],
      sessions.map(session => [
        session.name,
        stateText(session),
        session.point ?? '',
        formatBytes(session.bytesRead),
        formatBytes(session.bytesFetched),
        formatBytes(session.bytesWritten),
        session.created ?? '',
      ]),
    )
    for (const { name, requests } of sessions) {
      const text = requests && requestsText(requests)
      if (text) output.line(`${name} asked of the store: ${text}`)
    }
    return undefined
  })
  return undefined
}

/** Of --hydrate: bytes of the disks that need the repository no more, and of all. */
function hydrationOf({ hydratedBytes, hydrateBytes }: Readonly<Record<string, number>> = {}) {
  if (hydratedBytes === undefined || hydrateBytes === undefined) return {}
  return { hydratedBytes, hydrateBytes, isHydrated: hydratedBytes === hydrateBytes }
}

/** For people: what the one word means, where it is not all well. */
function stateText({
  state,
  problem,
  pid,
  pausedFor,
  hydratedBytes = 0,
  hydrateBytes,
  isHydrated,
}: {
  readonly state: string
  readonly problem?: string
  readonly pid?: number
  readonly pausedFor?: string
  readonly hydratedBytes?: number
  readonly hydrateBytes?: number
  readonly isHydrated?: boolean
}): string {
  if (problem) return `${state}: ${problem}`
  if (state === 'crashed')
    return pid === undefined ? 'crashed: resume it' : `crashed: its guest waits (QEMU ${pid}), resume it`
  const copied = hydrateBytes ? `, ${Math.floor((100 * hydratedBytes) / hydrateBytes)} % hydrated` : ''
  return `${state}${pausedFor ? `, paused for ${pausedFor}` : ''}${isHydrated ? ', hydrated' : copied}`
}

async function discard(
  asked: Invocation,
  name: string,
  { leavePin = false }: { readonly leavePin?: boolean },
): Promise<undefined> {
  const { output, signal, stateDir, surroundings } = asked
  const { session, state, owner } = await showSession(stateDir, name)
  if (owner !== undefined) {
    const socket = controlSocketOf(stateDir, name, session)
    await askSession({
      socket,
      command: 'discard',
      connectMs: limits.sessionConnectMs,
      clock: surroundings.clock,
      signal,
    })
  } else if (!session || leavePin || pinsOf(session).length === 0) {
    if (state === 'damaged') await refuseNewer(stateDir, name)
    await discardSession(sessionPlace(asked), name, async () => {})
    if (state === 'damaged') output.warning(`which pin it had in its repository cannot be told any more: ${PIN_HINT}`)
    for (const pin of session ? pinsOf(session) : [])
      output.warning(`pin ${pin} stays in ${session?.repository.url}, if it is there: ${PIN_HINT}`)
  } else {
    await using opened = await openRepositoryOf(session, () => asked.at(session.repository.url).openRepository())
    await discardSession(sessionPlace(asked), name, async state => {
      for (const pin of pinsOf(state)) await opened.repository.dropPin(pin, { signal })
    })
  }
  output.result({ discarded: name }, () => output.line(`session ${name} and its writes are gone`))
  return undefined
}

const PIN_HINT = '`lifeboat gc --dry-run` names those that keep points, `lifeboat unlock --pin ID` removes one'

/** A session that this version cannot read is not damaged, and its VM is not to be killed by mistake. */
async function refuseNewer(stateDir: string, name: string): Promise<void> {
  await readSession(stateDir, name).catch(error => {
    if (isLifeboatError(error, 'session-newer')) throw error
  })
}
