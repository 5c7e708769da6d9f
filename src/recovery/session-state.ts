/** The bytes of a session's state file (docs/session-state.md). Pure: no I/O. */
import { createHash } from 'node:crypto'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'

export const SESSION_VERSION = 1

export interface SessionDisk {
  /** The disk's name in the point, which is its device id in the VM and its export's name. */
  readonly name: string
  readonly size: number
  /** Where writes go; absent for a read-only export. */
  readonly overlay?: { readonly path: string; readonly format: string; readonly bitmap?: string }
}

export interface SessionProcess {
  readonly pid: number
  /** Field 22 of /proc/PID/stat: with it a pid is not taken for another process's. */
  readonly start: number
}

export interface SessionServe {
  readonly listen: { readonly socket: string } | { readonly host: string; readonly port: number }
  readonly writable: boolean
  /** All of the point's where it is absent. */
  readonly disks?: readonly string[]
  /** Words of the command line that the server is made with again. */
  readonly options?: Readonly<Record<string, string>>
}

export interface SessionMigration {
  readonly targets: readonly { readonly disk: string; readonly path: string; readonly format: 'raw' | 'qcow2' }[]
  /**
   * copying: the guest is on the overlays. pivoting: on either, only QEMU knows. differs: on the targets, which were found not
   * to hold what the overlays did.
   */
  readonly phase: 'copying' | 'pivoting' | 'differs'
}

export interface SessionState {
  readonly name: string
  readonly kind: 'boot' | 'export'
  /**
   * 'starting' until the guest or a client can read; 'stopped' when it ended in order. A live state with a dead owner means a
   * crash. 'discarding': its end was begun and must be finished. 'migrated': its VM runs elsewhere and needs it no more.
   */
  readonly state: 'starting' | 'running' | 'stopped' | 'discarding' | 'migrated'
  /** Stopped because the host went down: `resume --all` brings it back. */
  readonly stoppedBy?: 'shutdown'
  /** The owner has stopped the guest, and lets it go on when there is room again. Written before it is stopped. */
  readonly pausedFor?: 'space'
  readonly repository: { readonly url: string; readonly id: string }
  readonly point: { readonly id: string; readonly key: string; readonly vm: string; readonly pin?: string }
  /** Pins that may be in the store besides `point.pin`, written down before they were put. */
  readonly otherPins?: readonly string[]
  readonly created: string
  readonly updated: string
  /** Of the host, when the state was written: what was not synced before another boot may be lost. */
  readonly bootId: string
  readonly disks: readonly SessionDisk[]
  /** Unix sockets by use: 'nbd', 'qmp', 'control', 'serial', 'agent'. */
  readonly sockets: Readonly<Record<string, string>>
  /** Folder of the sockets where the session's own path is too long for them. */
  readonly runDir?: string
  readonly qemu?: {
    readonly program: string
    readonly arguments: readonly string[]
    readonly accelerator: string
    readonly process?: SessionProcess
  }
  /** Of a session of kind 'export': where it listens, and whether clients write. Sockets of kind 'boot' are in `sockets`. */
  readonly serve?: SessionServe
  /** The point is copied to this host while the session is served. */
  readonly hydrate?: { readonly bytesPerSecond?: number }
  /** Bytes that must stay free below the overlays; with less the guest is paused. */
  readonly reserve?: number
  /** One that was begun and has not ended. */
  readonly migration?: SessionMigration
  /** Figures of the last run, by name. */
  readonly figures: Readonly<Record<string, number>>
}

const SUM = ',"sha256":"'

/** JSON whose last member is the SHA-256 of everything before it. */
export function encodeSessionState(state: SessionState): Uint8Array {
  const body = JSON.stringify({ version: SESSION_VERSION, ...state }).slice(0, -1)
  return Buffer.from(`${body}${SUM}${createHash('sha256').update(body).digest('hex')}"}\n`)
}

/** Throws 'session-newer' or 'session-damaged', both naming the file. */
export function parseSessionState(bytes: Uint8Array, file: string): SessionState {
  if (bytes.length > limits.sessionFileMax) throw damaged(file, 'it is too large')
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8')
  const value = parseJson(text)
  if (!value) throw damaged(file, 'it is not JSON')
  if (typeof value.version === 'number' && value.version > SESSION_VERSION)
    throw new LifeboatError('session-newer', `${file} was written by a newer Lifeboat (version ${value.version})`, {
      details: { object: file },
      hint: 'Use that version, or a later one, for this session.',
    })
  const at = text.lastIndexOf(SUM)
  const sum = createHash('sha256')
    .update(text.slice(0, Math.max(0, at)))
    .digest('hex')
  if (at < 0 || text.slice(at) !== `${SUM}${sum}"}\n`) throw damaged(file, 'its checksum does not match')
  try {
    return stateFrom(value)
  } catch (error) {
    throw damaged(file, error instanceof Error ? error.message : String(error))
  }
}

const damaged = (file: string, why: string): LifeboatError =>
  new LifeboatError('session-damaged', `${file} is damaged: ${why}`, {
    details: { object: file },
    hint: 'The overlay files beside it are not touched. Copy what you need from them with qemu-img, then discard the session.',
  })

type Fields = Readonly<Record<string, unknown>>

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function parseJson(text: string): Fields | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isFields(value) ? value : undefined
  } catch {
    return undefined
  }
}

function fields(from: Fields, name: string): Fields {
  const value = from[name]
  if (isFields(value)) return value
  throw new Error(`'${name}' is missing`)
}

function text(from: Fields, name: string): string {
  const value = from[name]
  if (typeof value === 'string') return value
  throw new Error(`'${name}' is missing`)
}

function number(from: Fields, name: string): number {
  const value = from[name]
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
  throw new Error(`'${name}' is not a count`)
}

function oneOf<T extends string>(from: Fields, name: string, known: readonly T[]): T {
  const found = known.find(word => word === from[name])
  if (found !== undefined) return found
  throw new Error(`'${name}' is unknown`)
}

function list(from: Fields, name: string): readonly unknown[] {
  const value = from[name]
  if (Array.isArray(value)) return value
  throw new Error(`'${name}' is not a list`)
}

const optional = (from: Fields, name: string) => (from[name] === undefined ? undefined : text(from, name))

function record<T>(from: Fields, read: (from: Fields, name: string) => T): Record<string, T> {
  return Object.fromEntries(Object.keys(from).map(name => [name, read(from, name)]))
}

const finite = (from: Fields, name: string): number => {
  const value = from[name]
  if (typeof value === 'number') return value
  throw new Error(`'${name}' is not a number`)
}

function stateFrom(value: Fields): SessionState {
  const repository = fields(value, 'repository')
  const point = fields(value, 'point')
  return {
    name: text(value, 'name'),
    kind: oneOf(value, 'kind', ['boot', 'export']),
    state: oneOf(value, 'state', ['starting', 'running', 'stopped', 'discarding', 'migrated']),
    ...(value.stoppedBy !== undefined && { stoppedBy: oneOf<'shutdown'>(value, 'stoppedBy', ['shutdown']) }),
    ...(value.pausedFor !== undefined && { pausedFor: oneOf<'space'>(value, 'pausedFor', ['space']) }),
    repository: { url: text(repository, 'url'), id: text(repository, 'id') },
    point: {
      id: text(point, 'id'),
      key: text(point, 'key'),
      vm: text(point, 'vm'),
      ...(point.pin !== undefined && { pin: text(point, 'pin') }),
    },
    ...(value.otherPins !== undefined && { otherPins: list(value, 'otherPins').map(String) }),
    created: text(value, 'created'),
    updated: text(value, 'updated'),
    bootId: text(value, 'bootId'),
    disks: list(value, 'disks').map(diskFrom),
    sockets: record(fields(value, 'sockets'), text),
    ...(value.runDir !== undefined && { runDir: text(value, 'runDir') }),
    ...(value.qemu !== undefined && { qemu: qemuFrom(fields(value, 'qemu')) }),
    ...(value.serve !== undefined && { serve: serveFrom(fields(value, 'serve')) }),
    ...(value.hydrate !== undefined && { hydrate: hydrateFrom(fields(value, 'hydrate')) }),
    ...(value.reserve !== undefined && { reserve: number(value, 'reserve') }),
    ...(value.migration !== undefined && { migration: migrationFrom(fields(value, 'migration')) }),
    figures: record(fields(value, 'figures'), finite),
  }
}

function migrationFrom(value: Fields): SessionMigration {
  return {
    targets: list(value, 'targets').map(target => {
      if (!isFields(target)) throw new Error('a target is no object')
      const format = oneOf(target, 'format', ['raw', 'qcow2'])
      return { disk: text(target, 'disk'), path: text(target, 'path'), format }
    }),
    phase: oneOf(value, 'phase', ['copying', 'pivoting', 'differs']),
  }
}

const hydrateFrom = (value: Fields): NonNullable<SessionState['hydrate']> =>
  value.bytesPerSecond === undefined ? {} : { bytesPerSecond: number(value, 'bytesPerSecond') }

function serveFrom(value: Fields): SessionServe {
  const listen = fields(value, 'listen')
  return {
    listen:
      listen.socket === undefined
        ? { host: text(listen, 'host'), port: number(listen, 'port') }
        : { socket: text(listen, 'socket') },
    writable: value.writable === true,
    ...(value.disks !== undefined && { disks: list(value, 'disks').map(String) }),
    ...(value.options !== undefined && { options: record(fields(value, 'options'), text) }),
  }
}

function diskFrom(value: unknown): SessionDisk {
  if (!isFields(value)) throw new Error('a disk is no object')
  const overlay = value.overlay === undefined ? undefined : fields(value, 'overlay')
  const bitmap = overlay && optional(overlay, 'bitmap')
  return {
    name: text(value, 'name'),
    size: number(value, 'size'),
    ...(overlay && {
      overlay: {
        path: text(overlay, 'path'),
        format: text(overlay, 'format'),
        ...(bitmap !== undefined && { bitmap }),
      },
    }),
  }
}

function qemuFrom(value: Fields): NonNullable<SessionState['qemu']> {
  const process = value.process === undefined ? undefined : fields(value, 'process')
  return {
    program: text(value, 'program'),
    arguments: list(value, 'arguments').map(String),
    accelerator: text(value, 'accelerator'),
    ...(process && { process: { pid: number(process, 'pid'), start: number(process, 'start') } }),
  }
}
