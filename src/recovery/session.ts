/**
 * Sessions on disk: one folder each, `<state dir>/sessions/<name>/`, with the state file, its owner, and the overlays.
 * The state file is replaced as a whole, so a crash at any moment leaves the old state or the new one.
 */
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import { busy, lockSession, ownerOf } from './session-lock.ts'
import { encodeSessionState, parseSessionState, type SessionState } from './session-state.ts'

const STATE = 'session.json'
const SOCKET_FOLDER = 'lb-'
const SOCKET_NAME_MAX = 'control.sock'.length

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

const sessionsDir = (stateDir: string): string => path.join(stateDir, 'sessions')
const folderOf = (stateDir: string, name: string): string => path.join(sessionsDir(stateDir), checkSessionName(name))

/** Throws 'session-exists' where one of that name is there, live or not. */
export async function createSession(place: SessionPlace, name: string): Promise<Session> {
  const folder = folderOf(place.stateDir, name)
  await mkdir(sessionsDir(place.stateDir), { recursive: true, mode: 0o700 })
  try {
    await mkdir(folder, { mode: 0o700 })
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
    throw new LifeboatError('session-exists', `a session ${name} exists`, {
      details: { object: folder },
      hint: `Choose another name, resume it, or discard it: lifeboat session discard ${name}`,
    })
  }
  try {
    return await own(place, name, folder, undefined)
  } catch (error) {
    // It never came to be; its name must not be taken.
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

/** Throws 'no-such-session', 'session-busy', 'session-damaged', 'session-newer'. */
export async function openSession(place: SessionPlace, name: string): Promise<Session> {
  const state = await readSession(place.stateDir, name)
  return own(place, name, folderOf(place.stateDir, name), state)
}

async function own(
  place: SessionPlace,
  name: string,
  folder: string,
  initial: SessionState | undefined,
): Promise<Session> {
  const lock = await lockSession(folder, name, place.random)
  try {
    let state = initial
    const runDir = await socketFolder(place, folder, initial?.runDir)
    return {
      name,
      folder,
      runDir,
      state: () => state,
      save: async next => {
        state = { ...next, updated: place.clock.now().toISOString() }
        await replaceFile(path.join(folder, STATE), encodeSessionState(state))
      },
      socketPath: socket => path.join(runDir ?? folder, `${socket}.sock`),
      remove: async () => {
        if (runDir) await rm(runDir, { recursive: true, force: true })
        await rm(folder, { recursive: true, force: true })
      },
      [Symbol.asyncDispose]: () => lock[Symbol.asyncDispose](),
    }
  } catch (error) {
    await lock[Symbol.asyncDispose]()
    throw error
  }
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
  /** 'crashed': said to be live, but its owner is gone. 'damaged': its state cannot be read. */
  readonly state: SessionState['state'] | 'crashed' | 'damaged'
  readonly session?: SessionState
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
  const owner = await ownerOf(folderOf(stateDir, name))
  try {
    const session = await readSession(stateDir, name)
    const state = session.state !== 'stopped' && !owner ? 'crashed' : session.state
    return { name, state, session }
  } catch (error) {
    const folderExists = await stat(folderOf(stateDir, name)).then(
      () => true,
      () => false,
    )
    if (!folderExists) throw error
    // A folder without a state file is one whose making was interrupted, or is under way.
    return { name, state: owner ? 'starting' : 'damaged', problem: messageOf(error) }
  }
}

/**
 * Removes a session that nobody serves. `dropPin` removes its point's pin first: a crash in between leaves a session without
 * a pin, which can be discarded again, and never a pin without a session. Throws 'session-busy'.
 */
export async function discardSession(
  place: SessionPlace,
  name: string,
  dropPin: (session: SessionState) => Promise<void>,
): Promise<void> {
  const { session } = await showSession(place.stateDir, name)
  const folder = folderOf(place.stateDir, name)
  const owner = await ownerOf(folder)
  if (owner) throw busy(name, owner)
  await using _lock = await lockSession(folder, name, place.random)
  if (session) await dropPin(session)
  if (session?.runDir && path.basename(session.runDir).startsWith(SOCKET_FOLDER))
    await rm(session.runDir, { recursive: true, force: true })
  await rm(folder, { recursive: true, force: true })
}

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
  const folder = await open(path.dirname(file), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
