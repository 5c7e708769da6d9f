/** What one image has under way: the flights that it began, counted, and ended when the image is closed. */
import type { Flight } from './chunk-flights.ts'

export interface FlightFigures {
  /** Chunks asked of the source, those read ahead included, and their stored bytes. */
  readonly chunksFetched: number
  readonly bytesFetched: number
  /** Of these the stored bytes that the cache on disk gave. */
  readonly bytesFromDisk: number
  readonly chunksReadAhead: number
}

export class BegunFlights {
  readonly #chunkSize: number
  readonly #underWay = new Set<Promise<void>>()
  readonly #begun = new Set<Flight>()
  readonly #closed = new AbortController()
  readonly #figures = { chunksFetched: 0, bytesFetched: 0, bytesFromDisk: 0, chunksReadAhead: 0 }
  #aheadBytes = 0

  constructor(chunkSize: number) {
    this.#chunkSize = chunkSize
  }

  /** Falls when the image is closed. */
  get signal(): AbortSignal {
    return this.#closed.signal
  }

  /** On their way, of chunks that nobody has asked for. */
  get aheadBytes(): number {
    return this.#aheadBytes
  }

  figures(): FlightFigures {
    let { bytesFromDisk } = this.#figures
    for (const flight of this.#begun) bytesFromDisk += flight.bytesFromDisk
    return { ...this.#figures, bytesFromDisk }
  }

  /** So many of its chunks nobody has asked for. */
  add(flight: Flight, chunksAhead = 0): void {
    const bytesAhead = chunksAhead * this.#chunkSize
    const figures = this.#figures
    this.#aheadBytes += bytesAhead
    figures.chunksReadAhead += chunksAhead
    figures.chunksFetched += flight.refs.length
    for (const ref of flight.refs) figures.bytesFetched += ref.length
    this.#begun.add(flight)
    this.track(
      flight.ended.then(() => {
        this.#begun.delete(flight)
        figures.bytesFromDisk += flight.bytesFromDisk
        this.#aheadBytes -= bytesAhead
      }),
    )
    // A read that joined another image's flight may begin one of its own after this image was closed.
    if (this.signal.aborted) flight.abort(this.signal.reason)
  }

  /** `task` never rejects. */
  track(task: Promise<void>): void {
    const tracked = task.finally(() => this.#underWay.delete(tracked))
    this.#underWay.add(tracked)
  }

  async close(reason: Error): Promise<void> {
    this.#closed.abort(reason)
    for (const flight of this.#begun) flight.abort(reason)
    await Promise.all(this.#underWay)
  }
}
