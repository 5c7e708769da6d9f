/**
 * The requests of a boot once more, without its guest: each is made when all are answered that were answered before it, and
 * after as long a pause as the guest made, divided. Divided by eight an emulated guest thinks about as fast as one under KVM.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { BlockReader } from '../src/block/block-device.ts'
import { fileDevice } from '../src/block/file.ts'
import { systemClock } from '../src/core/clock.ts'
import { openDisks } from '../src/recovery/export.ts'
import { TracedSession } from '../src/recovery/traced-session.ts'
import type { BootRepository } from './boot-repository.ts'
import { CACHE_BYTES, CountingCache, type ReadFigures, tracesIn } from './boots.ts'
import type { Distance } from './distant-store.ts'
import { bytesOf, type DiskRequest, RequestLog, stallsOf } from './request-log.ts'

export interface ReplayedBoot {
  readonly seconds: number
  readonly figures: ReadFigures
}

export async function replayLocally(requests: readonly DiskRequest[], divisor: number, disk: string): Promise<number> {
  await using device = await fileDevice(disk, { readOnly: true })
  return await replay(requests, divisor, device)
}

/** By a process that has nothing in memory, over the store; its trace is stored at the end. `isFirst`: it knows of no earlier one. */
export async function replayCold(
  requests: readonly DiskRequest[],
  divisor: number,
  from: BootRepository,
  { isFirst, link }: { readonly isFirst: boolean; readonly link?: Distance },
): Promise<ReplayedBoot> {
  const { repository, meter } = await from.open(link)
  await using _opened = repository
  const cache = new CountingCache({ maxBytes: CACHE_BYTES })
  const clock = systemClock
  const stored = tracesIn(repository)
  const traces = isFirst ? { ...stored, latest: async () => undefined } : stored
  await using traced = new TracedSession({ traces, clock, cacheBytes: CACHE_BYTES, store: 'if-better' })
  const { onRead, onWait } = traced
  await using opened = await openDisks({ repository, point: from.point, cache, onRead, onWait })
  traced.begin(opened)
  const log = new RequestLog()
  const [disk] = opened.disks
  const seconds = await replay(requests, divisor, log.watched(disk!.base))
  const { get } = meter.figures()
  const { bytesFetched } = disk!.stats()
  await traced[Symbol.asyncDispose]()
  const figures = {
    stalls: stallsOf(log.requests),
    bytesRead: bytesOf(log.requests),
    bytesFetched,
    bytesOfGets: get.bytes,
    gets: get.requests,
    bytesDecoded: cache.bytesDecoded,
    replayedChunks: traced.figures().replayedChunks ?? 0,
  }
  return { seconds, figures }
}

/** Seconds. */
async function replay(requests: readonly DiskRequest[], divisor: number, device: BlockReader): Promise<number> {
  const inOrder = [...requests].sort((a, b) => a.startMs - b.startMs)
  const byEnd = [...inOrder].sort((a, b) => a.endMs - b.endMs)
  const answers = new Map<DiskRequest, Promise<number>>()
  const began = performance.now()
  /** The last thing that had happened when the guest made a request, then and in this replay: at first that the disk was served. */
  let event = { recordedMs: 0, ms: began }
  let ended = 0
  for (const request of inOrder) {
    for (; ended < byEnd.length && byEnd[ended]!.endMs <= request.startMs; ended++) {
      const answer = answers.get(byEnd[ended]!)
      if (!answer) break
      event = { recordedMs: Math.max(event.recordedMs, byEnd[ended]!.endMs), ms: Math.max(event.ms, await answer) }
    }
    const dueMs = event.ms + (request.startMs - event.recordedMs) / divisor
    await until(dueMs)
    event = { recordedMs: request.startMs, ms: dueMs }
    answers.set(request, answeredMs(device, request, dueMs))
  }
  await Promise.all(answers.values())
  return (performance.now() - began) / 1000
}

/** What memory answers is answered when it was due: a pause that took a little longer is made up for by the next one. */
async function answeredMs(device: BlockReader, { offset, length }: DiskRequest, dueMs: number): Promise<number> {
  const borrowed = device.borrow?.(offset, length)
  borrowed?.release()
  if (borrowed) return dueMs
  await device.readInto(new Uint8Array(length), offset)
  return performance.now()
}

/** Timers keep whole milliseconds, and most pauses of a guest are shorter. */
async function until(dueMs: number): Promise<void> {
  const leftMs = dueMs - performance.now()
  if (leftMs > 2) await systemClock.sleep(leftMs - 1.5)
  while (performance.now() < dueMs) await nextTurn()
}
