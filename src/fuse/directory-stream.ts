/**
 * One reading of a directory, which the kernel asks for piece by piece, by position: 0 is '.', 1 is '..', and the tree's entries
 * follow. A position that has gone by is found again by listing anew, since the order of a directory stays.
 */
import type { DirectoryNode, Entry } from '../files/file-tree.ts'

const DOTS = 2

export class DirectoryStream {
  readonly node: DirectoryNode
  readonly #closed = new AbortController()
  #iterator: AsyncIterator<readonly Entry[]> | undefined
  /** Entries from the position `#first` on. */
  #window: readonly Entry[] = []
  #first = DOTS
  #ended = false
  #wasTold = false
  #turn: Promise<unknown> = Promise.resolve()

  constructor(node: DirectoryNode) {
    this.node = node
  }

  /** Makes sure that `entry(position)` answers for good; one call after the other. */
  reach(position: number): Promise<void> {
    const reached = this.#turn.then(() => this.#reach(position))
    this.#turn = reached.catch(() => {})
    return reached
  }

  /** Whether `entry(position)` answers for good without waiting. */
  has(position: number): boolean {
    if (position < DOTS) return position > 0 || !this.#isStale()
    const index = position - this.#first
    return index >= 0 && (index < this.#window.length || this.#ended)
  }

  /** Undefined is the end, for a position of at least 2 that `has` affirms. */
  entry(position: number): Entry | undefined {
    return this.#window[position - this.#first]
  }

  async close(): Promise<void> {
    this.#closed.abort(new DOMException('the directory was closed', 'AbortError'))
    await this.#restart()
  }

  /** What is at hand was told to the kernel. */
  told(): void {
    this.#wasTold = true
  }

  /** rewinddir(3) shows what has come since, where something may have. */
  #isStale(): boolean {
    return !this.node.isFrozen && this.#wasTold
  }

  async #reach(position: number): Promise<void> {
    if (this.has(position)) return
    if (position < this.#first) await this.#restart()
    if (position < DOTS) return
    while (!this.has(position)) await this.#advance()
  }

  async #advance(): Promise<void> {
    this.#iterator ??= this.node.list({ signal: this.#closed.signal })[Symbol.asyncIterator]()
    try {
      const { done, value } = await this.#iterator.next()
      this.#first += this.#window.length
      this.#window = done ? [] : value
      this.#ended = done === true
    } catch (error) {
      await this.#restart()
      throw error
    }
  }

  async #restart(): Promise<void> {
    const iterator = this.#iterator
    this.#iterator = undefined
    this.#window = []
    this.#first = DOTS
    this.#ended = false
    this.#wasTold = false
    await iterator?.return?.().catch(() => {})
  }
}
