/** Lets so many bytes through at once, in the order in which they came; more wait. One that is larger than all goes alone. */
export class ByteGate {
  readonly #most: number
  readonly #waiting: { readonly bytes: number; readonly enter: () => void }[] = []
  #inside = 0

  constructor(most: number) {
    this.#most = most
  }

  async enter(bytes: number): Promise<void> {
    if (this.#waiting.length === 0 && this.#fits(bytes)) this.#inside += bytes
    else await new Promise<void>(enter => this.#waiting.push({ bytes, enter }))
  }

  leave(bytes: number): void {
    this.#inside -= bytes
    for (let next = this.#waiting[0]; next !== undefined && this.#fits(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift()
      this.#inside += next.bytes
      next.enter()
    }
  }

  #fits(bytes: number): boolean {
    return this.#inside === 0 || this.#inside + bytes <= this.#most
  }
}
