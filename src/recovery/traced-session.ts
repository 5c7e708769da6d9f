/**
 * The trace of one session: what the VM's last boot touched is read ahead of this guest, and what this one touches is recorded
 * and stored for the next. All of it happens beside the guest and may fail: a trace is a hint.
 */
import type { Clock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { BootTrace } from '../repository/boot-trace.ts'
import type { RunningExport } from './export.ts'
import { type ReplayedDisk, TraceReplay } from './replay-trace.ts'
import { TraceRecorder } from './trace-recorder.ts'

/** Where a VM's traces are kept. */
export interface VmTraces {
  latest(options: AbortOptions): Promise<BootTrace | undefined>
  put(trace: BootTrace, options: AbortOptions): Promise<void>
}

export interface TracedSessionOptions {
  /** Absent: nothing is recorded, and nothing read ahead. */
  readonly traces: VmTraces | undefined
  readonly clock: Clock
  /** Of the memory cache that the session reads through, bytes. */
  readonly cacheBytes: number
  /**
   * When what was recorded is stored. 'if-none': an export may be read by a copy as well as by a boot. 'never': a guest that has
   * written already reads only part of what it boots from.
   */
  readonly store: 'if-better' | 'if-none' | 'never'
}

export class TracedSession implements AsyncDisposable {
  readonly #options: TracedSessionOptions
  readonly #over = new AbortController()
  #disks: readonly RunningExport['disks'][number][] = []
  readonly #numbers = new Map<string, number>()
  #recorder: TraceRecorder | undefined
  #replay: TraceReplay | undefined
  #waiting = 0
  #isReplaying = false
  #work: Promise<unknown> = Promise.resolve()
  #figures: Readonly<Record<string, number>> | undefined

  constructor(options: TracedSessionOptions) {
    this.#options = options
  }

  readonly onRead = (disk: string, bytes: number, offset: number): void => {
    const number = this.#numbers.get(disk)
    if (number !== undefined) this.#recorder?.note(number, offset, bytes)
  }

  readonly onWait = (change: 1 | -1): void => {
    this.#waiting += change
    if (this.#waiting === 0) this.#replay?.wake()
  }

  /** What goes before everything that nobody waits for: reads of the guest, and what is read ahead of it. */
  get isBusy(): boolean {
    return this.#waiting > 0 || this.#isReplaying
  }

  figures(): Readonly<Record<string, number>> {
    if (!this.#options.traces) return {}
    return (
      this.#figures ?? { tracedChunks: this.#recorder?.touches.length ?? 0, replayedChunks: this.#replay?.fetched ?? 0 }
    )
  }

  /** Before the guest runs. Nothing of it waits for the store. */
  begin({ disks, point }: Pick<RunningExport, 'disks' | 'point'>): void {
    const { traces } = this.#options
    // Touches are numbers of chunks of one size.
    const [first] = disks
    if (!traces || !first) return
    const chunkSize = first.base.blockSize
    this.#disks = disks.filter(({ base }) => base.blockSize === chunkSize).slice(0, limits.traceDisksMax)
    for (const [number, { name }] of this.#disks.entries()) this.#numbers.set(name, number)
    const recorder = new TraceRecorder({
      chunkSize,
      diskCount: this.#disks.length,
      onTouch: ({ disk, chunk }) => this.#replay?.touched(this.#disks[disk]!.name, chunk),
    })
    this.#recorder = recorder
    const trace = { point: point.id, chunkSize, disks: this.#disks.map(({ name }) => name), touches: recorder.touches }
    this.#work = this.#run(traces, recorder, trace)
      .catch(() => {})
      .finally(() => {
        this.#figures = this.figures()
        this.#recorder = undefined
        this.#replay = undefined
      })
  }

  async #run(traces: VmTraces, recorder: TraceRecorder, trace: BootTrace): Promise<void> {
    const { signal } = this.#over
    let isWhole = false
    const ending = this.#endInTime(recorder).then(inTime => {
      isWhole = inTime
    })
    const known = traces.latest({ signal })
    const replayed = known.then(latest => latest && this.#read(latest, recorder)).catch(() => {})
    await recorder.ended
    this.#over.abort()
    await Promise.all([ending, replayed])
    const { store } = this.#options
    const count = trace.touches.length
    // What touches so much is a copy and no boot.
    if (store === 'never' || count === 0 || count >= limits.traceTouchesMax) return
    // Where it could not be read nobody knows whether this one is better, and the store would not take it either.
    const latest = await known
    if (!latest || (store === 'if-better' && isBetter(trace, latest, isWhole))) await this.#put(traces, trace)
  }

  /** Gives whether the recorder was let go on until the boot was over. */
  async #endInTime(recorder: TraceRecorder): Promise<boolean> {
    await Promise.race([recorder.began, recorder.ended])
    const inTime = await this.#untilCalm(recorder).then(
      () => true,
      () => false,
    )
    recorder.end()
    return inTime
  }

  /** Until hardly anything is touched for the first time any more: what comes later is somebody's work and no boot. */
  async #untilCalm({ touches }: TraceRecorder): Promise<void> {
    const { signal } = this.#over
    const { traceMs, traceCalmMs, traceCalmSteps, traceCalmTouches } = limits
    const stepMs = traceCalmMs / traceCalmSteps
    const counts = [0]
    for (let ms = 0; ms < traceMs; ms += stepMs) {
      await this.#options.clock.sleep(stepMs, { signal })
      counts.push(touches.length)
      const before = counts.at(-1 - traceCalmSteps)
      if (before !== undefined && touches.length - before < traceCalmTouches) return
    }
  }

  async #read(latest: BootTrace, recorder: TraceRecorder): Promise<void> {
    const { signal } = this.#over
    const disks = new Map<string, ReplayedDisk>(this.#disks.map(({ name, base }) => [name, base]))
    const replay = new TraceReplay({
      disks,
      trace: latest,
      budgetBytes: this.#options.cacheBytes / 2,
      isGuestWaiting: () => this.#waiting > 0,
      clock: this.#options.clock,
    })
    for (const { disk, chunk } of recorder.touches) replay.touched(this.#disks[disk]!.name, chunk)
    this.#replay = replay
    this.#isReplaying = true
    try {
      await replay.run({ signal })
    } finally {
      this.#isReplaying = false
    }
  }

  async #put(traces: VmTraces, trace: BootTrace): Promise<void> {
    const bounded = new AbortController()
    const timer = this.#options.clock.sleep(limits.traceStoreMs, { signal: bounded.signal }).then(
      () => bounded.abort(),
      () => {},
    )
    try {
      await traces.put(trace, { signal: bounded.signal })
    } finally {
      bounded.abort()
      await timer
    }
  }

  /** What was recorded so far is stored, if the store takes it soon. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort()
    this.#recorder?.end()
    await this.#work
  }
}

/** More than a tenth of what was touched was not foreseen, or most of what was foreseen was not touched in all that time. */
function isBetter(trace: BootTrace, latest: BootTrace, isWhole: boolean): boolean {
  if (latest.chunkSize !== trace.chunkSize) return true
  const known = new Set(latest.touches.map(({ disk, chunk }) => `${chunk} ${latest.disks[disk]}`))
  const unforeseen = trace.touches.filter(({ disk, chunk }) => !known.has(`${chunk} ${trace.disks[disk]}`))
  const isLean = isWhole && trace.touches.length * 2 < latest.touches.length
  return isLean || unforeseen.length * 10 > trace.touches.length
}
