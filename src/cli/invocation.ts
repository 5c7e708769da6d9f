/** One call of the command line: what it was given, and what its verbs share. */
import { hostname, userInfo } from 'node:os'
import path from 'node:path'
import type { Writable } from 'node:stream'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { Credential } from '../crypto/keys.ts'
import type { OpenGuest } from '../guest/guest-filesystems.ts'
import type { OpenedRepository as Repository } from '../repository/open.ts'
import type { RecordCache } from '../repository/record-cache.ts'
import type { Meter } from '../storage/metered.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { defaultPrices, type PriceList } from '../storage/prices.ts'
import { type ConfigFile, readConfigFile } from './config-file.ts'
import { credentialOf, type KeySettings, type KeySource, keySettings, keySource } from './credentials.ts'
import { Output } from './output.ts'
import { warnOfReadPast } from './read-past.ts'
import { knownIdentity, rememberIdentity } from './repository-identity.ts'
import { SeenPoints } from './seen-points.ts'
import { parseDurationMs, parseRate } from './units.ts'

/** Everything that comes from the process, so that a test can call a verb without one. */
export interface Surroundings {
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly stdout: Writable
  readonly stderr: Writable & { isTTY?: boolean }
  readonly clock: Clock
  readonly random: Random
  /** Falls on Ctrl-C and SIGTERM. */
  readonly signal: AbortSignal
  /** The host is going down, so that what runs is to run again afterwards. */
  readonly isHostStopping?: () => Promise<boolean>
  /** Who parses the filesystems of guests; the programs of this host unless others are brought along. */
  readonly guests?: { readonly reader?: OpenGuest; readonly appliance?: OpenGuest }
}

export interface GlobalFlags {
  readonly repo?: string
  readonly json?: boolean
  readonly quiet?: boolean
  readonly progress?: boolean
  readonly config?: string
  readonly leaseExpiry?: string
  readonly limitRate?: string
  readonly retryFor?: string
}

interface OpenedStore {
  readonly store: ObjectStore
  readonly meter: Meter
  bytesKept?(): number
}

/** How somebody who reads on and on reads. */
export interface ReadOptions {
  /** Between the retries and what is really sent. */
  readonly beneathRetries?: (store: ObjectStore) => ObjectStore
  readonly recordCache?: RecordCache
}

export interface OpenedRepository extends AsyncDisposable {
  readonly repository: Repository
  /** What this host remembers of its points. */
  readonly seen: SeenPoints
  readonly store: ObjectStore
  /** Requests and bytes that reached the store. */
  readonly meter: Meter
  /** Of a dry run: what it would have left in the store. */
  bytesKept(): number
}

export class Invocation {
  readonly surroundings: Surroundings
  readonly flags: GlobalFlags
  readonly output: Output
  readonly #config: ConfigFile

  private constructor(surroundings: Surroundings, flags: GlobalFlags, config: ConfigFile) {
    this.surroundings = surroundings
    this.flags = flags
    this.#config = config
    const { json = false, quiet = false, progress = false } = flags
    this.output = new Output(surroundings.stdout, surroundings.stderr, { json, quiet, progress })
  }

  static async of(surroundings: Surroundings, flags: GlobalFlags): Promise<Invocation> {
    const file = flags.config ?? surroundings.environment.LIFEBOAT_CONFIG
    return new Invocation(surroundings, flags, file ? await readConfigFile(file) : {})
  }

  /** The same call, to the repository at `url` where none was named: sessions know theirs. */
  at(url: string): Invocation {
    return this.namesRepository ? this : new Invocation(this.surroundings, { ...this.flags, repo: url }, this.#config)
  }

  get signal(): AbortSignal {
    return this.surroundings.signal
  }

  get host(): string {
    return hostname()
  }

  /** For marks and the audit. A user id without a name is one as well. */
  get who(): string {
    let user = String(process.getuid?.() ?? 'unknown')
    try {
      user = userInfo().username
    } catch {}
    return `${user}@${this.host}`
  }

  /** Where sessions, scan states and the like live: LIFEBOAT_STATE_DIR, else below the home folder or /var/lib for root. */
  get stateDir(): string {
    return this.#folder('LIFEBOAT_STATE_DIR', 'state-dir', '/var/lib/lifeboat', '.local/state/lifeboat')
  }

  get cacheDir(): string {
    return this.#folder('LIFEBOAT_CACHE_DIR', 'cache-dir', '/var/cache/lifeboat', '.cache/lifeboat')
  }

  get namesRepository(): boolean {
    return Boolean(this.flags.repo ?? this.surroundings.environment.LIFEBOAT_REPO ?? this.#config.repo)
  }

  get repositoryUrl(): string {
    const url = this.flags.repo ?? this.surroundings.environment.LIFEBOAT_REPO ?? this.#config.repo
    if (!url)
      throw new LifeboatError('usage', 'no repository was named', {
        hint: 'give --repo URL or set LIFEBOAT_REPO, for example --repo /srv/backup',
      })
    return url
  }

  get prices(): { readonly list: PriceList; readonly isAssumed: boolean } {
    const list = this.#config.prices
    return list ? { list, isAssumed: false } : defaultPrices(this.repositoryUrl)
  }

  get keySettings(): KeySettings {
    return keySettings({ ...this.flags }, this.surroundings.environment, this.#config)
  }

  /** Undefined where no key was named: right for an unencrypted repository only. */
  get keySource(): KeySource | undefined {
    return keySource(this.keySettings)
  }

  async credential(): Promise<Credential | undefined> {
    const source = this.keySource
    return source && (await credentialOf(source, this.keySettings))
  }

  get leaseExpiryMs(): number | undefined {
    const { leaseExpiry } = this.flags
    return leaseExpiry === undefined ? undefined : parseLeaseExpiry(leaseExpiry)
  }

  /** The store with retries, `--limit-rate` and a meter of what really went over the wire. */
  async openStore({
    create = false,
    beneathRetries = store => store,
  }: { readonly create?: boolean } & ReadOptions = {}): Promise<OpenedStore> {
    const { openStore } = await import('../storage/store-url.ts')
    const { metered } = await import('../storage/metered.ts')
    const { retrying } = await import('../storage/retrying.ts')
    const { slowing } = await import('../storage/slowing.ts')
    const { throttled } = await import('../storage/throttled.ts')
    const { clock, random, environment } = this.surroundings
    const counted = metered(await openStore(this.repositoryUrl, { environment, create, random }))
    this.output.counts(counted.meter)
    const { limitRate, retryFor } = this.flags
    const bearable = slowing(beneathRetries(counted.store), { clock })
    const limited =
      limitRate === undefined
        ? bearable
        : throttled(bearable, { bytesPerSecond: parseRate(limitRate, '--limit-rate'), clock })
    const retryForMs = retryFor === undefined ? undefined : parseDurationMs(retryFor, '--retry-for')
    return { store: retrying(limited, { clock, random, retryForMs }), meter: counted.meter }
  }

  /** With `dryRun` nothing reaches the store but questions, and the meter counts what would have. */
  async openRepository({
    dryRun = false,
    ...reads
  }: { readonly dryRun?: boolean } & ReadOptions = {}): Promise<OpenedRepository> {
    const { openRepository } = await import('../repository/open.ts')
    const { loadPipeline } = await import('../native/native.ts')
    const { clock, random } = this.surroundings
    const { store, meter, bytesKept } = dryRun ? await this.#openDryStore() : await this.openStore(reads)
    const readPast = warnOfReadPast(this.output)
    try {
      const repository = await openRepository({
        store,
        credential: await this.credential(),
        clock,
        random,
        host: this.host,
        pipeline: loadPipeline(),
        leaseExpiryMs: this.leaseExpiryMs,
        recordCache: reads.recordCache,
        pinned: await knownIdentity(this.stateDir, store.url),
        signal: this.signal,
      })
      await rememberIdentity(this.stateDir, store.url, repository.identity)
      const { watched, forgottenByAudit } = await import('./watched-repository.ts')
      const forgottenSince = forgottenByAudit(repository)
      const now = () => clock.now()
      const seen = await SeenPoints.load({ stateDir: this.stateDir, url: store.url, now, forgottenSince })
      const watching = watched(repository, seen, text => this.output.warning(text))
      return {
        // A point that was not written must not be missed later.
        repository: dryRun ? { ...watching, beginPoint: request => repository.beginPoint(request) } : watching,
        seen,
        store,
        meter,
        bytesKept: bytesKept ?? (() => 0),
        async [Symbol.asyncDispose]() {
          readPast[Symbol.dispose]()
          await seen.save()
          await repository[Symbol.asyncDispose]()
          await store[Symbol.asyncDispose]()
        },
      }
    } catch (error) {
      readPast[Symbol.dispose]()
      await store[Symbol.asyncDispose]()
      throw error
    }
  }

  async #openDryStore(): Promise<OpenedStore> {
    const { metered } = await import('../storage/metered.ts')
    const { withoutWrites } = await import('../storage/without-writes.ts')
    const { store } = await this.openStore()
    const withheld = withoutWrites(store)
    return { ...metered(withheld.store), bytesKept: withheld.bytesKept }
  }

  #folder(variable: string, name: 'state-dir' | 'cache-dir', forRoot: string, forUsers: string): string {
    const { environment } = this.surroundings
    const set = environment[variable] ?? this.#config[name]
    if (set) return path.resolve(set)
    if (process.getuid?.() === 0) return forRoot
    return path.join(environment.HOME ?? '/tmp', forUsers)
  }
}

function parseLeaseExpiry(text: string): number {
  const expiryMs = parseDurationMs(text, '--lease-expiry')
  if (expiryMs >= limits.leaseExpiryMinMs) return expiryMs
  throw new LifeboatError('usage', `--lease-expiry ${text} is shorter than a store may take to answer`, {
    hint: `write at least ${limits.leaseExpiryMinMs / 1000}s`,
  })
}
