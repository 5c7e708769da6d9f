/** How much there is to read, for the estimate of a bar. */
import type { AbortOptions } from '../core/scope.ts'
import { parsePackKey } from '../repository/object-keys.ts'
import type { ObjectStore } from '../storage/object-store.ts'

export interface StoredSize {
  readonly objects: number
  /** All packs: the most that points may need. They share packs, so chosen points end before a bar over this does. */
  readonly packBytes: number
}

/** A listing of the whole store: only for who shows it. */
export async function storedSize(store: ObjectStore, options: AbortOptions): Promise<StoredSize> {
  let objects = 0
  let packBytes = 0
  for await (const { key, size } of store.list('', options)) {
    objects++
    if (parsePackKey(key)) packBytes += size
  }
  return { objects, packBytes }
}

export const unknownSize: StoredSize = { objects: 0, packBytes: 0 }
