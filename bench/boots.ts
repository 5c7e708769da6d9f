/** Boots of one guest: from a local raw file, and from a repository that is 10 ms away, with the guest's requests noted. */
import { mkdtemp } from 'node:fs/promises'
import path from 'node:path'
import { ChunkCache } from '../src/cache/chunk-cache.ts'
import { systemClock } from '../src/core/clock.ts'
import { hex } from '../src/core/ids.ts'
import { MiB } from '../src/core/limits.ts'
import { systemRandom } from '../src/core/random.ts'
import { bootPoint } from '../src/recovery/boot.ts'
import type { Exporter } from '../src/recovery/exporter.ts'
import { latestTrace, putTrace } from '../src/repository/boot-trace.ts'
import type { OpenedRepository } from '../src/repository/open.ts'
import { connectConsole } from '../test/guest/console.ts'
import { copyImage } from '../test/guest/tool.ts'
import { startVm } from '../test/guest/vm.ts'
import { type BootRepository, DISK, VM } from './boot-repository.ts'
import { bytesOf, type DiskRequest, RequestLog, type Stalls, stallsOf } from './request-log.ts'
import { exporter } from './synthetic.ts'

const MEMORY_MIB = 256
export const CACHE_BYTES = 256 * MiB

export interface BootedDisk {
  readonly disk: string
  readonly bootTimeoutMs: number
}

/** What a boot asked of the store and what came of it, up to the prompt. */
export interface ReadFigures {
  readonly stalls: Stalls
  /** By the guest. */
  readonly bytesRead: number
  /** Stored bytes of chunks, and all bytes that GETs brought: nodes of the tree and gaps as well. */
  readonly bytesFetched: number
  readonly bytesOfGets: number
  readonly gets: number
  /** Of decoded chunks. */
  readonly bytesDecoded: number
  readonly replayedChunks: number
}

/** Decoded chunks as they come in. */
export class CountingCache extends ChunkCache {
  bytesDecoded = 0

  override set(key: string, content: Uint8Array): Uint8Array {
    this.bytesDecoded += content.length
    return super.set(key, content)
  }
}

export interface ColdBoot {
  /** To the prompt. */
  readonly seconds: number
  readonly figures: ReadFigures
  readonly requests: readonly DiskRequest[]
}

/** Seconds to the prompt. */
export async function localBoot({ disk, bootTimeoutMs }: BootedDisk, dir: string): Promise<number> {
  const copy = path.join(await mkdtemp(path.join(dir, 'local-')), 'disk.raw')
  await copyImage(disk, copy)
  const started = performance.now()
  await using vm = await startVm({
    disks: [{ name: DISK, path: copy, format: 'raw' }],
    memoryMiB: MEMORY_MIB,
    bootTimeoutMs,
  })
  await vm.waitForPrompt()
  return (performance.now() - started) / 1000
}

/** First boots of this run, by guest, for other goals that ask about them. */
export const firstBoots = new Map<string, ReadFigures>()

/** A process that has nothing in memory boots the guest. Its trace is stored when it ends, for the next one. */
export async function coldBoot(from: BootRepository, { bootTimeoutMs }: BootedDisk, dir: string): Promise<ColdBoot> {
  const { repository, meter } = await from.open()
  await using _opened = repository
  let log = new RequestLog()
  const noting: Exporter = request => {
    log = new RequestLog()
    const exports = request.exports.map(each => ({ ...each, device: log.watched(each.device) }))
    return exporter({ ...request, exports })
  }
  const started = performance.now()
  const cache = new CountingCache({ maxBytes: CACHE_BYTES })
  await using boot = await bootPoint({
    repository,
    point: from.point,
    session: hex(systemRandom(4)),
    stateDir: path.join(dir, 's'),
    runDir: path.join(dir, 'r'),
    clock: systemClock,
    random: systemRandom,
    exporter: noting,
    cache,
    traces: tracesIn(repository),
    memoryBytes: MEMORY_MIB * MiB,
    accelerator: 'tcg',
    extra: ['-no-reboot'],
  })
  using console = await connectConsole(boot.serial)
  await console.waitForPrompt(bootTimeoutMs)
  const seconds = (performance.now() - started) / 1000
  const requests = [...log.requests]
  const { bytesFetched, replayedChunks = 0 } = boot.figures()
  const { get } = meter.figures()
  const { bytesDecoded } = cache
  await boot.stop()
  const figures = {
    stalls: stallsOf(requests),
    bytesRead: bytesOf(requests),
    bytesFetched,
    bytesOfGets: get.bytes,
    gets: get.requests,
    bytesDecoded,
    replayedChunks,
  }
  return { seconds, figures, requests }
}

export const tracesIn = ({ reading: { control } }: OpenedRepository) => ({
  latest: (options: { signal?: AbortSignal }) => latestTrace(control, VM, options),
  put: (trace: Parameters<typeof putTrace>[2], options: { signal?: AbortSignal }) =>
    putTrace(control, VM, trace, { now: new Date(), random: systemRandom, ...options }),
})
