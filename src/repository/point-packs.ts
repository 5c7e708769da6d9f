import pLimit from 'p-limit'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { DedupIndex } from './dedup-index.ts'
import type { Healing } from './healing.ts'
import { NodeWriter } from './node-writer.ts'
import type { PlacedRecord } from './open-pack.ts'
import { PackWriter } from './pack-writer.ts'
import type { PointLocks } from './point-locks.ts'
import type { ReuseRules } from './reuse-rules.ts'
import type { WriteContext } from './write-context.ts'

export interface PointPacksOptions {
  readonly rules: ReuseRules
  readonly healing: Healing
  readonly locks: PointLocks | undefined
  readonly hasBase: boolean
}

/** What the disks of one point share: the packs that are being filled, and what is known of stored contents. */
export class PointPacks {
  readonly data: PackWriter
  readonly nodes: NodeWriter
  readonly dedup: DedupIndex
  readonly healing: Healing
  /** One window at a time enters its chunks and nodes, so that the order of everything follows from the input. */
  readonly inTurn = pLimit(1)
  readonly #context: WriteContext

  constructor(context: WriteContext, { rules, healing, locks, hasBase }: PointPacksOptions) {
    this.#context = context
    this.healing = healing
    this.data = new PackWriter(context, {
      kind: 'data',
      buffers: limits.packBuffers,
      contentMax: context.chunkSize,
      onClose: pack => {
        this.dedup.closed(pack)
        this.nodes.named(pack.id)
      },
    })
    this.nodes = new NodeWriter(context, healing, () => this.data.close())
    this.dedup = new DedupIndex(context, {
      rules,
      locks,
      whenStored: pack => this.data.whenStored(pack),
      chunksBeforeLoading: hasBase ? limits.dedupSegmentChunks : 0,
    })
  }

  /** Compresses and enters the chunks of `source` at these positions. `ids`: 32 bytes for each chunk of `source`. */
  async store(
    source: Uint8Array,
    ids: Uint8Array,
    positions: readonly number[],
    options: AbortOptions,
  ): Promise<PlacedRecord[]> {
    const { pipeline, chunkSize } = this.#context
    const records: PlacedRecord[] = []
    while (records.length < positions.length) {
      const pack = await this.data.reserve(options)
      const batch = Uint32Array.from(positions.slice(records.length, records.length + this.data.room(pack)))
      const lengths = await pipeline.compressChunks(source, chunkSize, batch, pack.body, pack.used)
      for (const [n, position] of batch.entries()) {
        const id = ids.subarray(position * 32, position * 32 + 32)
        const record = pack.add(id, lengths[n]!, chunkSize)
        this.dedup.added(record)
        records.push(record)
      }
    }
    return records
  }

  /** WRITER step 4, but for the index: everything that was entered is stored. The data pack is named first: nodes point to it. */
  async finish(options: AbortOptions): Promise<void> {
    this.data.close()
    this.nodes.packs.close()
    await Promise.all([this.data.finish(options), this.nodes.packs.finish(options)])
  }

  async abandon(reason: unknown): Promise<void> {
    await Promise.all([this.data.abandon(reason), this.nodes.packs.abandon(reason)])
  }
}
