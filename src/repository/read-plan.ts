/** What reading records would ask of the store, by the reader's own rule for which of them share a GET. For dry runs. */
import { idPrefixBytes, trailerBytes } from './pack-codec.ts'
import { planRuns, runLimitsOf } from './record-runs.ts'
import type { ChunkRef } from './repository.ts'

export class ReadPlan {
  gets = 0
  heads = 0
  /** With the gaps that are read along. */
  bytes = 0
  /** Of the records alone. */
  recordBytes = 0
  readonly #packs = new Set<string>()

  get packs(): number {
    return this.#packs.size
  }

  /** The look at a pack of at least so many records: its size, its trailer, its footer with salt and tag. */
  addFooter(records: number): void {
    this.heads++
    this.gets += 2
    this.bytes += trailerBytes + 32 + records * (idPrefixBytes + 3)
  }

  /** Records that are asked for in one call. */
  add(refs: readonly ChunkRef[], chunkSize: number): void {
    for (const [pack, ofPack] of Map.groupBy(refs, ref => ref.pack)) {
      this.#packs.add(pack)
      for (const { length, records } of planRuns(ofPack, runLimitsOf({ kind: 'data', chunkSize }))) {
        this.gets++
        this.bytes += length
        for (const record of records) this.recordBytes += record.length
      }
    }
  }
}
