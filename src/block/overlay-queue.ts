/** What changes an overlay, one thing after the other, over all its disks. Writes that stand together are one batch. */
import { limits } from '../core/limits.ts'
import type { BlocksWrite } from './overlay-batch.ts'
import type { DiskMap } from './overlay-map.ts'

interface Settles {
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export type BlocksOp = BlocksWrite & Settles & { readonly kind: 'blocks' }

export interface ZeroOp extends Settles {
  readonly kind: 'zero'
  readonly disk: DiskMap
  readonly block: number
  readonly count: number
}

/** Something that must not meet a batch. */
interface AloneOp {
  readonly kind: 'alone'
  readonly run: () => Promise<void>
}

/** Each settles what it was given, and never rejects. */
export interface QueueWork {
  /** Undefined when it was done in this turn. */
  write(batch: readonly BlocksOp[]): Promise<void> | undefined
  zero(op: ZeroOp): Promise<void>
}

export class WriteQueue {
  readonly #work: QueueWork
  #ops: (BlocksOp | ZeroOp | AloneOp)[] = []
  #busy = false
  #scheduled = false

  constructor(work: QueueWork) {
    this.#work = work
  }

  /** Nothing is under way and nothing waits. */
  get idle(): boolean {
    return !this.#busy && this.#ops.length === 0
  }

  push(op: BlocksOp | ZeroOp | AloneOp): void {
    this.#ops.push(op)
    if (this.#busy || this.#scheduled) return
    this.#scheduled = true
    // Behind what this turn still brings: that is one batch.
    process.nextTick(() => {
      this.#scheduled = false
      this.#pump()
    })
  }

  /** Runs `run` when everything that was asked for before has been done, and nothing else beside it. */
  alone<T>(run: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => this.push({ kind: 'alone', run: () => run().then(resolve, reject) }))
  }

  #pump(): void {
    while (!this.#busy && this.#ops.length > 0) {
      const work = this.#begin(this.#ops[0]!)
      if (work !== undefined) this.#occupy(work)
    }
  }

  #begin(first: BlocksOp | ZeroOp | AloneOp): Promise<void> | undefined {
    if (first.kind === 'blocks') return this.#work.write(this.#nextBatch())
    this.#ops.shift()
    return first.kind === 'zero' ? this.#work.zero(first) : first.run()
  }

  #occupy(work: Promise<void>): void {
    this.#busy = true
    void work.then(() => {
      this.#busy = false
      this.#pump()
    })
  }

  /** Writes that stand one behind the other, up to a bound. */
  #nextBatch(): BlocksOp[] {
    const batch: BlocksOp[] = []
    let count = 0
    for (const op of this.#ops) {
      if (op.kind !== 'blocks' || (count > 0 && count + op.count > limits.overlayBatchBlocks)) break
      batch.push(op)
      count += op.count
    }
    this.#ops = batch.length === this.#ops.length ? [] : this.#ops.slice(batch.length)
    return batch
  }
}
