/** The metadata contexts of an export: which there are, which a query names, and what a device says as one of them. */
import type { BlockReader } from '../block/block-device.ts'
import { limits } from '../core/limits.ts'
import type { Range, StatusExtent } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import * as C from './constants.ts'
import type { NbdExport } from './nbd-export.ts'

/** What clients may ask about an export beside `base:allocation`. Nothing of it is opened before somebody asks. */
export interface ExportContext {
  /** `namespace:leaf`, as clients select it. */
  readonly name: string
  /** Of many contexts with one meaning: the name, ending in a colon, under which they are listed together. */
  readonly listedAs?: string
  /** Runs from the start of `range` to its end, in order and without gaps. What the flags, 32 bits, mean is the context's business. */
  extents(range: Range, options?: AbortOptions): AsyncIterable<StatusExtent>
}

/** LIST_META_CONTEXT: names and wildcards. No query lists everything; a query that ends in a colon asks for all that begin so. */
export function listedContexts({ contexts = [] }: NbdExport, queries: readonly string[]): readonly string[] {
  const all: readonly Pick<ExportContext, 'name' | 'listedAs'>[] = [{ name: C.BASE_ALLOCATION }, ...contexts]
  if (queries.length === 0) return unique(all.map(({ name, listedAs }) => listedAs ?? name))
  const asked = new Set(queries)
  const matching = all.filter(({ name }) => [name, ...wildcardsOf(name)].some(text => asked.has(text)))
  const names = unique(matching.map(({ name }) => name))
  // Whoever knows the namespace can do with the wildcard.
  return names.length <= limits.nbdContextsListed
    ? names
    : unique(matching.map(({ name, listedAs }) => listedAs ?? name))
}

/** SET_META_CONTEXT: full names only, each once. */
export function selectedContexts({ contexts = [] }: NbdExport, queries: readonly string[]): readonly string[] {
  const asked = new Set(queries)
  return unique([C.BASE_ALLOCATION, ...contexts.map(({ name }) => name)].filter(name => asked.has(name)))
}

/** The context of that name, or undefined. */
export const contextOf = ({ device, contexts = [] }: NbdExport, name: string): ExportContext | undefined =>
  name === C.BASE_ALLOCATION ? allocation(device) : contexts.find(context => context.name === name)

/** `base:` and, for deeper names, `qemu:dirty-bitmap:`. */
const wildcardsOf = (name: string): string[] => [...name.matchAll(/:/g)].map(({ index }) => name.slice(0, index + 1))

const unique = (names: readonly string[]): readonly string[] => [...new Set(names)]

/** What reads as zeros is a hole as well: nothing is stored for it. */
const allocation = (device: BlockReader): ExportContext => ({
  name: C.BASE_ALLOCATION,
  async *extents(range, options) {
    for await (const { offset, length, kind } of device.extents(range, options))
      yield { offset, length, flags: kind === 'zero' ? C.NBD_STATE_HOLE | C.NBD_STATE_ZERO : 0 }
  },
})
