/**
 * qcow2 by QEMU's own hand: `qemu-img convert` reads the point from a short-lived export of ours. So no second copy of the
 * disk is needed (as with raw first, then convert), and no qcow2 metadata is ever written by anybody but QEMU.
 */
import { mkdtemp, open, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import type { BlockReader } from '../block/block-device.ts'
import { cachedImage } from '../cache/cached-image.ts'
import { ChunkCache } from '../cache/chunk-cache.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ChunkSource } from '../repository/repository.ts'
import { type Exporter, nbdUri } from './exporter.ts'
import { mustRun } from './external-tool.ts'
import type { RestoreCounts, RestoreProgress } from './restore.ts'
import { lookAtOutput, type OutputOptions, outputError, publish, temporaryName } from './restore-target.ts'

export interface ConvertOptions extends OutputOptions, AbortOptions {
  readonly exporter?: Exporter
  readonly runDir?: string
  readonly progress?: (progress: RestoreProgress) => void
}

/** qemu-img reads 16 x 2 MiB ahead of itself; what it has read it does not ask for again. */
const CACHE_BYTES = limits.restoreBatchBytes * limits.restoreBatchesInFlight

export async function convertToQcow2(
  source: ChunkSource,
  options: ConvertOptions,
  counts: RestoreCounts,
): Promise<void> {
  const { exporter, runDir, output, signal } = options
  if (!exporter || !runDir)
    throw new LifeboatError('internal', 'a restore to qcow2 needs an exporter and a folder for its socket')
  if ((await lookAtOutput(options)) === 'block-device' || options.onto)
    throw new LifeboatError('usage', 'qcow2 is written to a new file only', {
      details: { object: output },
      hint: 'Use --format raw for a block device and for --onto.',
    })
  const temporary = temporaryName(options)
  const folder = await mkdtemp(path.join(runDir, 'restore-'))
  try {
    await using image = cachedImage(source, { cache: new ChunkCache({ maxBytes: CACHE_BYTES }) })
    const watched = watchedReader(image, options.progress)
    const socket = path.join(folder, 'nbd')
    const exports = [{ name: 'disk', device: watched.reader, readOnly: true }]
    await using _server = await exporter({ exports, listen: { socket }, signal })
    const from = nbdUri(socket, 'disk')
    try {
      await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-W', '-m', '16', from, temporary], { signal })
    } catch (error) {
      // qemu-img only knows that a read failed; we know why.
      throw watched.failure() ?? error
    }
    counts.bytesFetched = image.stats().bytesFetched
    counts.bytesWritten = (await stat(temporary)).blocks * 512
    await syncFile(temporary)
    await publish(temporary, options)
    options.progress?.({ done: source.size, size: source.size })
  } catch (error) {
    throw outputError(output, error)
  } finally {
    await rm(temporary, { force: true })
    await rm(folder, { recursive: true, force: true })
  }
}

async function syncFile(name: string): Promise<void> {
  const file = await open(name, 'r+')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}

interface WatchedReader {
  readonly reader: BlockReader
  /** The first error that a read met. */
  readonly failure: () => unknown
}

function watchedReader(image: BlockReader, progress: ConvertOptions['progress']): WatchedReader {
  let failure: unknown
  let furthest = 0
  const reader: BlockReader = {
    size: image.size,
    blockSize: image.blockSize,
    async readInto(target, offset, options) {
      try {
        await image.readInto(target, offset, options)
      } catch (error) {
        failure ??= error
        throw error
      }
      if (offset + target.length > furthest) {
        furthest = offset + target.length
        progress?.({ done: furthest, size: image.size })
      }
    },
    borrow: (offset, length) => image.borrow?.(offset, length),
    extents: (range, options) => image.extents(range, options),
    [Symbol.asyncDispose]: async () => {},
  }
  return { reader, failure: () => failure }
}
