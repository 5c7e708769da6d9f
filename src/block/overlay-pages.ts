/** What is done to whole pages of the map, at work and in a replay alike. */
import type { OverlayFile } from './overlay-files.ts'
import { FIRST_SLOT, PAGE_BLOCKS, ZERO } from './overlay-format.ts'
import { type DetachedPage, type DiskMap, readPages } from './overlay-map.ts'

/** Pages that lie wholly between two blocks: the first, and the one behind the last. */
function wholePages(block: number, end: number): [number, number] {
  const first = Math.ceil(block / PAGE_BLOCKS)
  return [first, Math.max(first, Math.floor(end / PAGE_BLOCKS))]
}

/** Pages of which only a part lies between two blocks. */
export function edgePages(block: number, end: number): number[] {
  const [first, last] = wholePages(block, end)
  const pages = new Set([block, end - 1].map(at => Math.floor(at / PAGE_BLOCKS)))
  return [...pages].filter(page => page < first || page >= last)
}

/** Edges are in memory. Gives the pages that are no part of the map any more. */
export function applyZero(map: DiskMap, block: number, end: number, free: (slot: number) => void): DetachedPage[] {
  const [first, last] = wholePages(block, end)
  const detached: DetachedPage[] = []
  for (let page = first; page < last; page++) {
    const former = map.detach(page, ZERO)
    if (former !== undefined) detached.push(former)
  }
  for (let at = block; at < end; at++) {
    const page = Math.floor(at / PAGE_BLOCKS)
    if (page >= first && page < last) at = last * PAGE_BLOCKS - 1
    else {
      const former = map.set(at, ZERO, 0)
      if (former >= FIRST_SLOT) free(former - FIRST_SLOT)
    }
  }
  return detached
}

export function freeAll(words: Uint32Array, free: (slot: number) => void): void {
  for (let at = 0; at < words.length; at += 2) if (words[at]! >= FIRST_SLOT) free(words[at]! - FIRST_SLOT)
}

/** What detached pages told; undefined where one cannot be read: its slots are then lost until the overlay ends. */
export async function wordsOf(data: OverlayFile, pages: readonly DetachedPage[]): Promise<(Uint32Array | undefined)[]> {
  const stored = pages.filter(({ words, location }) => words === undefined && location >= FIRST_SLOT)
  const read = await readPages(data, stored).catch(() => stored.map(() => undefined))
  return pages.map(page => page.words ?? read[stored.indexOf(page)])
}

/** A block of a disk in two words: its low 32 bits; its high 16 below the disk's index. */
export function putBlock(words: Uint32Array, at: number, disk: number, block: number): void {
  words[at] = block >>> 0
  words[at + 1] = disk * 65_536 + Math.floor(block / 2 ** 32)
}

export const blockFrom = (low: number, high: number) => ({
  disk: high >>> 16,
  block: (high & 0xffff) * 2 ** 32 + low,
})
