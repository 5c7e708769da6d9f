/** What exports, sessions and mounts read through: the caches in memory and on disk, and GETs that are asked again when they are slow. */
import path from 'node:path'
import type { Command } from 'commander'
import { ChunkCache } from '../cache/chunk-cache.ts'
import { openDiskCache } from '../cache/disk-cache.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { VmTraces } from '../recovery/traced-session.ts'
import { latestTrace, putTrace } from '../repository/boot-trace.ts'
import { type HedgeFigures, hedged } from '../storage/hedged.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { parseStoreUrl } from '../storage/store-url.ts'
import type { Invocation, OpenedRepository } from './invocation.ts'
import { flatFigures } from './requests.ts'
import { parseBytes } from './units.ts'

export interface LiveReadFlags {
  readonly cacheSize: string
  readonly diskCacheSize?: string
}

export const liveReadOptions = (command: Command): Command =>
  command
    .option('--cache-size <size>', 'memory for decoded chunks', '256MiB')
    .option(
      '--disk-cache-size <size>',
      "what of this host's disk may hold fetched chunks, encrypted, for all sessions together; 0 for none (8GiB; none for a repository in a folder)",
    )

export interface LiveRepository extends OpenedRepository {
  /** Of decoded chunks, for all disks of this process. */
  readonly cache: ChunkCache
  /** What boots of this VM touched. */
  traces(vm: string): VmTraces
  /** Requests by kind, what the cache on disk gave, GETs that were asked for twice: numbers by name. */
  figures(): Readonly<Record<string, number>>
}

/** The folder's number is that of the format: another version has another folder. */
const CACHE_FOLDER = 'records-1'

export async function openForLiveReads(invocation: Invocation, flags: LiveReadFlags): Promise<LiveRepository> {
  const { surroundings, output, cacheDir, repositoryUrl } = invocation
  const { clock, random } = surroundings
  const isRemote = parseStoreUrl(repositoryUrl).kind === 's3'
  const cache = new ChunkCache({ maxBytes: parseBytes(flags.cacheSize, '--cache-size') })
  const maxBytes = diskBytes(flags.diskCacheSize, isRemote)
  await using stack = new AsyncDisposableStack()
  const folder = path.join(cacheDir, CACHE_FOLDER)
  const onTrouble = (message: string) => output.warning(message)
  const disk = maxBytes === 0 ? undefined : await openDiskCache({ folder, maxBytes, clock, random, onTrouble })
  if (disk) stack.use(disk)
  let hedges = (): HedgeFigures | undefined => undefined
  const beneathRetries = (store: ObjectStore): ObjectStore => {
    // A directory answers from one machine, and a line that was narrowed on purpose is not for asking twice.
    if (!isRemote || invocation.flags.limitRate !== undefined) return store
    const hedging = hedged(store, { clock })
    hedges = hedging.hedges
    return hedging
  }
  const opened = stack.use(await invocation.openRepository({ beneathRetries, recordCache: disk }))
  // Its indexes were read meanwhile.
  await disk?.refresh()
  const owned = stack.move()
  return {
    ...opened,
    cache,
    traces(vm) {
      const { control } = opened.repository.reading
      return {
        latest: options => latestTrace(control, vm, options),
        put: (trace, options) => putTrace(control, vm, trace, { now: clock.now(), random, ...options }),
      }
    },
    figures() {
      const { hits: diskCacheHits = 0, bytesRead: diskCacheBytes = 0, damaged = 0 } = disk?.figures() ?? {}
      const { hedged: getsHedged = 0 } = hedges() ?? {}
      const own = { diskCacheHits, diskCacheBytes, diskCacheDamaged: damaged, getsHedged }
      return { ...flatFigures(opened.meter.figures()), ...own }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

function diskBytes(said: string | undefined, isRemote: boolean): number {
  if (said === undefined) return isRemote ? limits.diskCacheBytesDefault : 0
  const bytes = parseBytes(said, '--disk-cache-size')
  if (bytes === 0 || bytes >= limits.diskCacheBytesMin) return bytes
  throw new LifeboatError('usage', `--disk-cache-size ${said} is too little to be of use`, {
    hint: `say at least ${limits.diskCacheBytesMin / 2 ** 20}MiB, or 0 for none`,
  })
}
