/**
 * Sessions on disk: one folder each, `<state dir>/sessions/<name>/`, with the state file, its owner, and the overlays.
 * The state file is replaced as a whole, so a crash at any moment leaves the old state or the new one.
 */
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import { hostBootId } from './accelerator.ts'
import { adoptQemu, findQemu, isRunning } from './qemu-process.ts'
import { busy, lockSession, ownerOf } from './session-lock.ts'
import { refuseToEndMoved } from './session-refusals.ts'
import { encodeSessionState, parseSessionState, type SessionProcess, type SessionState } from './session-state.ts'
import { step } from './session-step.ts'

const STATE = 'session.json'
const SOCKET_FOLDER = 'lb-'
const SOCKET_NAME_MAX = 'control.sock'.length
const DISCARDED = '.discarded-'
/** Of the session's owner; QEMU's own is called 'control'. */
export const CONTROL_SOCKET = 'session'

export interface SessionPlace {
  readonly stateDir: string
  /** Short, private to this user: sockets go there when the session's own path is too long for them. */
  readonly runDir: string
  readonly clock: Clock
  readonly random: Random
}

/** A session that this process owns. Dispose gives up the ownership and keeps the session. */
export interface Session extends AsyncDisposable {
  readonly name: string
  readonly folder: string
  /** The last saved state; undefined for a session that has just been made. */
  readonly state: () => SessionState | undefined
  /** Durable before it resolves. Sets `updated`. */
  readonly save: (state: SessionState) => Promise<void>
  /** The same, one after the other, each upon what the one before it saved. For a session that has a state. */
  readonly update: (change: (state: SessionState) => SessionState) => Promise<SessionState>
  /** A path for a socket of this name, short enough to bind. */
  readonly socketPath: (name: string) => string
  readonly runDir: string | undefined
  /** Removes the session and everything in it. */
  readonly remove: () => Promise<void>
}

const isSessionName = (name: string): boolean => /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name)

/** Refuses what would leave the folder or surprise a shell. */
export function checkSessionName(name: string): string {
  if (isSessionName(name)) return name
  throw new LifeboatError('usage', `'${name.slice(0, 80)}' is no name for a session`, {
    hint: 'Use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit.',
  })
}

export const inventSessionName = (vm: string, random: Random): string =>
  `${
    vm
      .replace(/[^A-Za-z0-9_-]+/g, '-')
      .replace(/^[^A-Za-z0-9]+/, '')
      .slice(0, 48) || 'session'
  }-${hex(random(3))}`

/** Where the owner of a live session is asked. */
export const controlSocketOf = (stateDir: string, name: string, state: SessionState | undefined): string =>
  path.join(state?.runDir ?? folderOf(stateDir, name), `${CONTROL_SOCKET}.sock`)

const sessionsDir = (stateDir: string): string => path.join(stateDir, 'sessions')
export const folderOf = (stateDir: string, name: string): string =>
  path.join(sessionsDir(stateDir), checkSessionName(name))

/** Throws 'session-exists' where one of that name is there, live or not. */
export async function createSession(place: SessionPlace, name: string): Promise<Session> {
  const folder = folderOf(place.stateDir, name)
  const first = await mkdir(sessionsDir(place.stateDir), { recursive: true, mode: 0o700 })
  // What is in a folder is as durable as the folder's own name.
  if (first !== undefined) for (const made of upTo(sessionsDir(place.stateDir), first)) await syncFolder(made)
  await sweepDiscarded(place.stateDir)
  try {
    await mkdir(folder, { mode: 0o700 })
    await syncFolder(path.dirname(folder))
    step('session folder')
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
    throw new LifeboatError('session-exists', `a session ${name} exists`, {
      details: { object: folder },
      hint: `Choose another name, resume it, or discard it: lifeboat session discard ${name}`,
    })
  }
  try {
    return await own(place, name, folder, async () => undefined)
  } catch (error) {
    // It never came to be; its name must not be taken.
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

/** Throws 'no-such-session', 'session-busy', 'session-damaged', 'session-newer'. */
export async function openSession(place: SessionPlace, name: string): Promise<Session> {
  // Before the lock as well: a lock file needs a folder.
  await refuseUnwritten(place.stateDir, name)
  return own(place, name, folderOf(place.stateDir, name), () => readSession(place.stateDir, name))
}

/** A session as one that a command is to act on. Throws what is wrong with it. */
export async function knownSession(stateDir: string, name: string): Promise<SessionState> {
  await refuseUnwritten(stateDir, name)
  return readSession(stateDir, name)
}

async function refuseUnwritten(stateDir: string, name: string): Promise<void> {
  const { state, problem } = await showSession(stateDir, name)
  if (state === 'unfinished' && problem !== undefined)
    throw new LifeboatError('usage', `the start of session ${name} was interrupted before anything was written`, {
      hint: `Remove it: lifeboat session discard ${name}`,
    })
}

async function own(
  place: SessionPlace,
  name: string,
  folder: string,
  read: () => Promise<SessionState | undefined>,
): Promise<Session> {
  const lock = await lockSession(folder, name, place.random)
  try {
    let state = await read()
    const runDir = await socketFolder(place, folder, state?.runDir)
    let last: Promise<unknown> = Promise.resolve()
    const oneByOne = <T>(work: () => Promise<T>): Promise<T> => {
      const done = last.then(work, work)
      last = done.catch(() => {})
      return done
    }
    const write = async (next: SessionState): Promise<SessionState> => {
      const dated = { ...next, updated: place.clock.now().toISOString() }
      await replaceFile(path.join(folder, STATE), encodeSessionState(dated))
      state = dated
      step(`state ${dated.state}`)
      return dated
    }
    return {
      name,
      folder,
      runDir,
      state: () => state,
      save: next => oneByOne(async () => void (await write(next))),
      update: change =>
        oneByOne(async () => {
          if (!state) throw new LifeboatError('internal', `session ${name} has no state yet`)
          return await write(change(state))
        }),
      socketPath: socket => path.join(runDir ?? folder, `${socket}.sock`),
      remove: () => removeFolders(place, folder, runDir),
      [Symbol.asyncDispose]: () => lock[Symbol.asyncDispose](),
    }
  } catch (error) {
    await lock[Symbol.asyncDispose]()
    throw error
  }
}

/** The name goes first and at once: what a crash leaves is no session any more, and swept later. */
async function removeFolders(place: SessionPlace, folder: string, runDir: string | undefined): Promise<void> {
  if (runDir !== undefined && path.basename(runDir).startsWith(SOCKET_FOLDER))
    await rm(runDir, { recursive: true, force: true })
  const doomed = path.join(path.dirname(folder), `${DISCARDED}${hex(place.random(6))}`)
  await rename(folder, doomed)
  await syncFolder(path.dirname(folder))
  step('session renamed')
  await rm(doomed, { recursive: true, force: true })
}

/** Leaves those alone that another process is just removing: rm minds no file that is gone. */
async function sweepDiscarded(stateDir: string): Promise<void> {
  for (const name of await readdir(sessionsDir(stateDir)))
    if (name.startsWith(DISCARDED)) await rm(path.join(sessionsDir(stateDir), name), { recursive: true, force: true })
}

/** Undefined where sockets fit into the session's folder. A resumed session keeps its paths: QEMU may still have them. */
async function socketFolder(
  { runDir }: SessionPlace,
  folder: string,
  before: string | undefined,
): Promise<string | undefined> {
  if (before !== undefined) {
    await mkdir(before, { recursive: true, mode: 0o700 })
    return before
  }
  if (Buffer.byteLength(folder) + 1 + SOCKET_NAME_MAX <= limits.socketPathMax) return undefined
  if (Buffer.byteLength(runDir) + 1 + `${SOCKET_FOLDER}XXXXXX/`.length + SOCKET_NAME_MAX > limits.socketPathMax)
    throw new LifeboatError('usage', `${runDir} is too long a path for Unix sockets`, {
      hint: 'Set LIFEBOAT_STATE_DIR or TMPDIR to a shorter path.',
    })
  await mkdir(runDir, { recursive: true, mode: 0o700 })
  return mkdtemp(path.join(runDir, SOCKET_FOLDER))
}

/** The state of any session, owned by whomever. */
export async function readSession(stateDir: string, name: string): Promise<SessionState> {
  const file = path.join(folderOf(stateDir, name), STATE)
  try {
    const { size } = await stat(file)
    if (size > limits.sessionFileMax) throw new RangeError(`${size} bytes`)
    return parseSessionState(await readFile(file), file)
  } catch (error) {
    if (error instanceof RangeError) return parseSessionState(new Uint8Array(), file)
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
    throw new LifeboatError('no-such-session', `there is no session ${name}`, {
      details: { object: file },
      hint: '`lifeboat session list` shows those that there are.',
    })
  }
}

export interface SessionSummary {
  readonly name: string
  /**
   * 'crashed': said to be live, but its owner is gone. 'unfinished': the same before anything could be written to it, so that
   * there is nothing to resume. 'damaged': its state cannot be read.
   */
  readonly state: SessionState['state'] | 'crashed' | 'unfinished' | 'damaged'
  readonly session?: SessionState
  /** The process that serves it. */
  readonly owner?: number
  /** The QEMU that runs the guest, whoever owns the session: without an owner the guest waits for its disks. */
  readonly qemu?: SessionProcess
  readonly problem?: string
}

export async function listSessions(stateDir: string): Promise<readonly SessionSummary[]> {
  const names = await readdir(sessionsDir(stateDir)).catch(error => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  })
  return Promise.all(
    names
      .filter(isSessionName)
      .sort()
      .map(name => showSession(stateDir, name)),
  )
}

/** Throws 'no-such-session' only; what is wrong with a session is part of the answer. */
export async function showSession(stateDir: string, name: string): Promise<SessionSummary> {
  const folder = folderOf(stateDir, name)
  const owner = await ownerOf(folder)
  const pid = owner && { owner: owner.pid }
  try {
    const session = await readSession(stateDir, name)
    const qemu = await guestOf(folder, session)
    return { name, state: stateOf(session, owner !== undefined), session, ...pid, ...(qemu && { qemu }) }
  } catch (error) {
    const folderExists = await stat(folder).then(
      () => true,
      () => false,
    )
    if (!folderExists) throw error
    if (owner) return { name, state: 'starting', ...pid }
    // A folder without a state file is one whose making was interrupted.
    if (isLifeboatError(error, 'no-such-session'))
      return { name, state: 'unfinished', problem: 'its start was interrupted before anything was written: discard it' }
    return { name, state: 'damaged', problem: messageOf(error) }
  }
}

const isStartable = ({ qemu, serve }: SessionState): boolean => serve !== undefined || (qemu?.arguments.length ?? 0) > 0

function stateOf(session: SessionState, isOwned: boolean): SessionSummary['state'] {
  if (isOwned || (session.state !== 'starting' && session.state !== 'running')) return session.state
  return isStartable(session) ? 'crashed' : 'unfinished'
}

/** The living QEMU of a session. One that was started and not yet written down is looked for. */
export async function guestOf(folder: string, session: SessionState): Promise<SessionProcess | undefined> {
  const { kind, state, qemu, bootId } = session
  if (kind !== 'boot' || state === 'stopped') return undefined
  // Another boot of the host may have given pid and start time to something else.
  const written = bootId === (await hostBootId()) ? qemu?.process : undefined
  if (written && (await isRunning(written))) return written
  return findQemu(folder)
}

/**
 * Removes a session that nobody serves, in an order that any crash leaves to be discarded again: first its end is written
 * down, so that nobody resumes it; then the guest that was left alone, the pins (`dropPins`: never a pin without a session),
 * the folder. Throws 'session-busy'.
 */
export async function discardSession(
  place: SessionPlace,
  name: string,
  dropPins: (session: SessionState) => Promise<void>,
): Promise<void> {
  const { session } = await showSession(place.stateDir, name)
  const folder = folderOf(place.stateDir, name)
  const owner = await ownerOf(folder)
  if (owner) throw busy(name, owner)
  await using owned = await own(place, name, folder, async () => session)
  const isReleased = session?.state === 'migrated'
  const guest = session && !isReleased ? await guestOf(folder, session) : undefined
  if (session && guest) refuseToEndMoved(session)
  if (session && !isReleased) await owned.update(state => ({ ...state, state: 'discarding' }))
  // A migrated VM runs from its own disks, and lives.
  const process = isReleased ? undefined : session ? guest : await findQemu(folder)
  if (process) await adoptQemu(process, path.join(folder, QEMU_LOG), place.clock).kill()
  step('guest killed')
  if (session) await dropPins(session)
  step('pins dropped')
  await owned.remove()
}

/** All pins that a session may have in the store. */
export const pinsOf = ({ point, otherPins = [] }: SessionState): readonly string[] => [
  ...new Set([...(point.pin === undefined ? [] : [point.pin]), ...otherPins]),
]

export const QEMU_LOG = 'qemu.log'

/** `folder` and the folders above it, up to and with the one that holds `first`. */
function* upTo(folder: string, first: string): Iterable<string> {
  for (let at = folder; ; at = path.dirname(at)) {
    yield at
    if (at === path.dirname(first) || at === path.dirname(at)) return
  }
}

export async function syncFile(file: string): Promise<void> {
  await using handle = await open(file, 'r')
  await handle.sync()
}

export const syncFolder = syncFile

async function replaceFile(file: string, bytes: Uint8Array): Promise<void> {
  const draft = `${file}.new`
  const handle = await open(draft, 'w', 0o600)
  try {
    await handle.writeFile(bytes)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(draft, file)
  await syncFolder(path.dirname(file))
}
