/**
 * Who reads which volume of a guest. The sandboxed reader answers at once what it can read; the first volume that it leaves to the
 * appliance starts the appliance. Where there is none, such a volume says why it cannot be read, and the others are read all the same.
 */
import { abortable } from '../core/abortable.ts'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileTree } from '../files/file-tree.ts'
import type { GuestDisk, GuestFilesystems, OpenGuest, Volume } from './guest-filesystems.ts'

export interface OpenGuestRequest {
  readonly reader?: OpenGuest
  readonly appliance?: OpenGuest
  /** Of encrypted volumes, by their names: tried where they are seen locked. */
  readonly keys?: ReadonlyMap<string, Uint8Array>
}

export interface ChosenFilesystems extends GuestFilesystems {
  /** What can be told without the appliance; undefined where only it can tell. Those that need it say so. */
  quickVolumes(options?: AbortOptions): Promise<readonly Volume[] | undefined>
}

export const openGuest =
  ({ reader, appliance, keys = new Map() }: OpenGuestRequest) =>
  async (disks: readonly GuestDisk[]): Promise<ChosenFilesystems> =>
    new Chosen(new Started(reader, disks, keys), new Started(appliance, disks, keys))

class Chosen implements ChosenFilesystems {
  readonly #reader: Started
  readonly #appliance: Started

  constructor(reader: Started, appliance: Started) {
    this.#reader = reader
    this.#appliance = appliance
  }

  async quickVolumes(options: AbortOptions = {}): Promise<readonly Volume[] | undefined> {
    if (!this.#reader.isThere) return undefined
    return await this.#reader.volumes(options).catch(error => {
      // A reader that cannot run here leaves everything to the appliance.
      if (options.signal?.aborted || !this.#appliance.isThere) throw error
      return undefined
    })
  }

  async volumes(options: AbortOptions = {}): Promise<readonly Volume[]> {
    const quick = await this.quickVolumes(options)
    if (!quick) return await this.#appliance.volumes(options)
    if (!quick.some(needsAppliance)) return quick
    try {
      return merged(quick, await this.#appliance.volumes(options))
    } catch (error) {
      if (options.signal?.aborted) throw error
      const why = refusal(error)
      return quick.map(volume => (needsAppliance(volume) ? withoutAppliance(volume, why) : volume))
    }
  }

  async unlock(name: string, key: Uint8Array, options: AbortOptions = {}): Promise<void> {
    const { whose } = await this.#find(name, options)
    await whose.unlock(name, key, options)
  }

  async open(name: string, options: AbortOptions = {}): Promise<FileTree> {
    const { volume, whose } = await this.#find(name, options)
    if (volume.state !== 'readable') throw unreadable(volume)
    return await whose.open(name, options)
  }

  /** What the reader has is its own: another volume that needs the appliance does not start it. */
  async #find(name: string, options: AbortOptions): Promise<{ volume: Volume; whose: Started }> {
    const isIt = (volume: Volume) => volume.name === name
    const quick = (await this.quickVolumes(options))?.find(isIt)
    if (quick && !needsAppliance(quick)) return { volume: quick, whose: this.#reader }
    const volumes = await this.volumes(options)
    const volume = volumes.find(isIt)
    if (!volume) throw noSuchVolume(name, volumes)
    return { volume, whose: this.#appliance }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#reader[Symbol.asyncDispose](), this.#appliance[Symbol.asyncDispose]()])
  }
}

/** One of the two, started when somebody needs it, by the first for all. A failed start is not tried again: opening the guest anew does. */
class Started implements AsyncDisposable {
  readonly #open: OpenGuest | undefined
  readonly #disks: readonly GuestDisk[]
  readonly #keys: ReadonlyMap<string, Uint8Array>
  readonly #ended = new AbortController()
  #guest: Promise<GuestFilesystems> | undefined
  /** Keys that do not fit, by volume. */
  readonly #refused = new Map<string, LifeboatError>()

  constructor(open: OpenGuest | undefined, disks: readonly GuestDisk[], keys: ReadonlyMap<string, Uint8Array>) {
    this.#open = open
    this.#disks = disks
    this.#keys = keys
  }

  get isThere(): boolean {
    return this.#open !== undefined
  }

  /** With those inside the encrypted ones whose keys are known. */
  async volumes(options: AbortOptions): Promise<readonly Volume[]> {
    const guest = await this.#started(options)
    const tried = new Set<string>()
    for (;;) {
      const volumes = await guest.volumes(options)
      const next = volumes.find(volume => this.#isToUnlock(volume) && !tried.has(volume.name))
      if (!next) return volumes.map(volume => this.#withRefusal(volume))
      tried.add(next.name)
      await this.#tryKey(guest, next.name, options)
    }
  }

  async open(volume: string, options: AbortOptions): Promise<FileTree> {
    return await (await this.#started(options)).open(volume, options)
  }

  async unlock(volume: string, key: Uint8Array, options: AbortOptions): Promise<void> {
    await (await this.#started(options)).unlock(volume, key, options)
  }

  #isToUnlock({ name, state, needs }: Volume): boolean {
    return state === 'locked' && needs === undefined && this.#keys.has(name) && !this.#refused.has(name)
  }

  #withRefusal(volume: Volume): Volume {
    const refused = volume.state === 'locked' ? this.#refused.get(volume.name) : undefined
    return refused ? { ...volume, reason: refused.message } : volume
  }

  async #tryKey(guest: GuestFilesystems, volume: string, options: AbortOptions): Promise<void> {
    for (const key of keysIn(this.#keys.get(volume)))
      try {
        await guest.unlock(volume, key, options)
        this.#refused.delete(volume)
        return
      } catch (error) {
        // Others may be read all the same; who asks for this one is told.
        if (!isLifeboatError(error, 'wrong-guest-key')) throw error
        this.#refused.set(volume, error)
      }
  }

  async #started(options: AbortOptions): Promise<GuestFilesystems> {
    if (!this.#open) throw nobodyReads()
    this.#guest ??= this.#open(this.#disks, { signal: this.#ended.signal })
    return await abortable(this.#guest, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new LifeboatError('interrupted', 'the guest was closed'))
    // Who waited for a start that failed has been told.
    const guest = await this.#guest?.catch(() => undefined)
    await guest?.[Symbol.asyncDispose]()
  }
}

/** An editor puts a line end behind a passphrase; where the file does not fit as it is, it may fit without. */
function keysIn(key: Uint8Array | undefined): readonly Uint8Array[] {
  if (!key) return []
  const text = Buffer.from(key).toString('latin1')
  const bare = Buffer.from(text.replace(/\r?\n$/, ''), 'latin1')
  return bare.length === key.length ? [key] : [key, bare]
}

const needsAppliance = ({ needs }: Volume): boolean => needs === 'appliance'

/**
 * The order of the quick list, what only the appliance knows behind it: names stay where they were when it starts later. What it does
 * not list any more is replaced by what lies inside.
 */
function merged(quick: readonly Volume[], whole: readonly Volume[]): readonly Volume[] {
  const known = new Map(whole.map(volume => [volume.name, volume]))
  const first = quick.flatMap(volume => (needsAppliance(volume) ? (known.get(volume.name) ?? []) : volume))
  const names = new Set(quick.map(({ name }) => name))
  return [...first, ...whole.filter(({ name }) => !names.has(name))]
}

const withoutAppliance = ({ needs: _needs, ...volume }: Volume, why: string): Volume => ({
  ...volume,
  state: 'unsupported',
  reason: volume.reason === undefined ? why : `${volume.reason}; ${why}`,
})

function refusal(error: unknown): string {
  const hint = isLifeboatError(error) ? error.details.hint : undefined
  const why = `the appliance that reads it cannot run: ${messageOf(error)}`
  return hint === undefined ? why : `${why}; ${hint}`
}

const nobodyReads = (): LifeboatError =>
  new LifeboatError('guest-unsupported', 'nothing on this host can read the filesystems of guests', {
    hint: '`lifeboat doctor` says what to install; `lifeboat boot POINT` lets the guest read its own files.',
  })

const VOLUMES_NAMED = 20

export const noSuchVolume = (name: string, volumes: readonly Volume[]): LifeboatError => {
  const known = volumes.filter(({ state }) => state !== 'nothing').slice(0, VOLUMES_NAMED)
  return new LifeboatError('no-such-volume', `the point has no volume '${name}'`, {
    details: { volume: name },
    hint: known.length > 0 ? `There are: ${known.map(volume => volume.name).join(', ')}.` : 'It has none with files.',
  })
}

/** Why a volume's files cannot be read, with the way out. */
export function unreadable({ name, type = 'nothing known', state, reason }: Volume): LifeboatError {
  const why = reason === undefined ? '' : `: ${reason}`
  const details = { volume: name, type }
  if (state === 'locked')
    return new LifeboatError('guest-locked', `volume ${name} is encrypted (${type})${why}`, {
      details,
      hint: `Give its key: --guest-key ${name}=FILE, a file with its passphrase or recovery key.`,
    })
  return new LifeboatError(
    state === 'nothing' ? 'no-such-volume' : 'guest-unsupported',
    `volume ${name} (${type}) has no files that can be read${why}`,
    {
      details,
      hint: 'Boot the point and copy from there (`lifeboat boot POINT`), or take the whole disk (`lifeboat restore`).',
    },
  )
}
