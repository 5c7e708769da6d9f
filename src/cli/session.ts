import { stat } from 'node:fs/promises'
import { LifeboatError } from '../core/errors.ts'
import { discardSession, listSessions, type SessionSummary, showSession } from '../recovery/session.ts'
import type { Invocation } from './invocation.ts'
import { figuresFromFlat, requestsText } from './requests.ts'
import { runDirOf } from './run-dir.ts'
import { formatBytes } from './units.ts'
import { verb } from './verb.ts'

export const sessionCommand = verb({
  syntax: 'session <action> [name]',
  description:
    'list: all sessions of this host; show NAME: one; discard NAME: remove a stopped one with all its writes.',
  examples: ['session list', 'session show test --json', '--repo /srv/backup session discard test'],
  async run(invocation, [action = '', name]) {
    if (action === 'list') return print(invocation, await listSessions(invocation.stateDir))
    if (name === undefined)
      throw new LifeboatError('usage', `session ${action} needs the name of a session`, {
        hint: '`lifeboat session list` shows them',
      })
    if (action === 'show') return print(invocation, [await showSession(invocation.stateDir, name)])
    if (action === 'discard') return discard(invocation, name)
    throw new LifeboatError('usage', `session ${action} is not known`, { hint: 'list, show and discard are' })
  },
})

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
  const sessions = summaries.map(({ name, state, session, problem }) => ({
    name,
    state,
    problem,
    point: session && `${session.point.vm}@${session.point.id}`,
    repository: session?.repository.url,
    pid: session?.qemu?.process?.pid,
    sockets: session?.sockets,
    bytesRead: session?.figures.bytesRead ?? 0,
    bytesFetched: session?.figures.bytesFetched ?? 0,
    cacheHits: session?.figures.cacheHits ?? 0,
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
        session.problem ? `${session.state}: ${session.problem}` : session.state,
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

async function discard(invocation: Invocation, name: string): Promise<undefined> {
  const { output, surroundings, signal, stateDir } = invocation
  const place = { stateDir, runDir: runDirOf(invocation), clock: surroundings.clock, random: surroundings.random }
  const { session } = await showSession(stateDir, name)
  const pin = session?.point.pin
  if (pin === undefined) await discardSession(place, name, async () => {})
  else {
    await using opened = await invocation.openRepository()
    const { repository } = opened
    if (repository.id !== session?.repository.id)
      throw new LifeboatError('usage', `session ${name} belongs to the repository at ${session?.repository.url}`, {
        hint: `name it: lifeboat --repo ${session?.repository.url} session discard ${name}`,
      })
    await discardSession(place, name, async () => repository.dropPin?.(pin, { signal }))
  }
  output.result({ discarded: name }, () => output.line(`session ${name} and its writes are gone`))
  return undefined
}
