/** A run of zeros in chunks, and how many chunks of data stand before it in the window. */
export interface WindowZeros {
  readonly before: number
  readonly first: number
  readonly count: number
}

/** Chunks of a disk that are written as one: their data in one buffer, and the runs of zeros between them, in rising order. */
export class WriteWindow {
  readonly buffer: Uint8Array
  readonly chunks: number[] = []
  readonly zeros: WindowZeros[] = []
  readonly #chunkSize: number

  constructor(buffer: Uint8Array, chunkSize: number) {
    this.buffer = buffer
    this.#chunkSize = chunkSize
  }

  get isFull(): boolean {
    return (this.chunks.length + 1) * this.#chunkSize > this.buffer.length || this.zeros.length >= 4096
  }

  get isEmpty(): boolean {
    return this.chunks.length === 0 && this.zeros.length === 0
  }

  /** Whole chunks; a multiple of the chunk size. */
  get data(): Uint8Array {
    return this.buffer.subarray(0, this.chunks.length * this.#chunkSize)
  }

  /** Copies chunks from `data`, whose first is chunk `first`, until the window is full; gives the bytes taken. A last partial chunk is padded with zeros. */
  add(first: number, data: Uint8Array): number {
    const chunkSize = this.#chunkSize
    const from = this.chunks.length * chunkSize
    const room = Math.floor((this.buffer.length - from) / chunkSize)
    const count = Math.min(room, Math.ceil(data.length / chunkSize))
    const taken = Math.min(count * chunkSize, data.length)
    this.buffer.set(taken === data.length ? data : data.subarray(0, taken), from)
    this.buffer.fill(0, from + taken, from + count * chunkSize)
    for (let chunk = 0; chunk < count; chunk++) this.chunks.push(first + chunk)
    return taken
  }

  addZeros(first: number, count: number): void {
    this.zeros.push({ before: this.chunks.length, first, count })
  }
}
