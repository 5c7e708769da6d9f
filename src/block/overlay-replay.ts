/** Records of the journals, applied to the map and slots that were stored before them. */
import { mergeRanges, type Range, totalLength } from '../core/range.ts'
import { BLOCK, FIRST_SLOT, KIND_ZERO, overlayDamaged, PAGE_BLOCKS, type RecordView } from './overlay-format.ts'
import type { DiskMap } from './overlay-map.ts'
import { applyZero, blockFrom, edgePages, freeAll, wordsOf } from './overlay-pages.ts'
import type { OverlayRecovery, ReadJournals } from './overlay-recovery.ts'
import type { SlotSpace } from './overlay-space.ts'

interface Run {
  readonly disk: number
  readonly block: number
  readonly count: number
}

export async function replay(
  records: readonly RecordView[],
  disks: readonly DiskMap[],
  space: SlotSpace,
  data: Parameters<typeof wordsOf>[0],
): Promise<void> {
  const forgo = (slot: number) => space.forgo(slot)
  // Pages that nothing takes away are read in one go; what is left is read when its record comes.
  await loadPages(
    disks,
    records.filter(({ kind }) => kind !== KIND_ZERO).flatMap(record => [...pagesNamed(record)]),
  )
  for (const record of records) {
    if (record.kind === KIND_ZERO) {
      const { disk, block, count } = zeroOf(record)
      const map = mustHave(disks, disk, block, count)
      await map.load(edgePages(block, block + count))
      const detached = applyZero(map, block, block + count, forgo)
      for (const words of await wordsOf(data, detached)) if (words !== undefined) freeAll(words, forgo)
      for (const { location } of detached) if (location >= FIRST_SLOT) space.freePage(location - FIRST_SLOT)
      continue
    }
    const words = wordsIn(record)
    const { count } = record
    for (let n = 0; n < count; n++) {
      const { disk, block } = blockFrom(words[2 * n]!, words[2 * n + 1]!)
      const map = mustHave(disks, disk, block, 1)
      const location = words[2 * count + n]!
      const former = map.set(block, location, words[3 * count + n]!)
      if (former >= FIRST_SLOT) forgo(former - FIRST_SLOT)
      space.claim(location - FIRST_SLOT)
    }
  }
  space.replayed()
}

async function loadPages(disks: readonly DiskMap[], pages: readonly { disk: number; page: number }[]): Promise<void> {
  for (const [n, disk] of disks.entries()) {
    const indexes = new Set<number>()
    for (const { disk: index, page } of pages) if (index === n && page < disk.locations.length) indexes.add(page)
    await disk.load([...indexes].sort((a, b) => disk.locations[a]! - disk.locations[b]!))
  }
}

function* pagesNamed(record: RecordView): Generator<{ disk: number; page: number }> {
  for (const { disk, block } of runsOf(record)) yield { disk, page: Math.floor(block / PAGE_BLOCKS) }
}

function* runsOf(record: RecordView): Generator<Run> {
  if (record.kind === KIND_ZERO) yield zeroOf(record)
  else {
    const words = wordsIn(record)
    for (let n = 0; n < record.count; n++) yield { ...blockFrom(words[2 * n]!, words[2 * n + 1]!), count: 1 }
  }
}

/** The words of a record's body, which lies anywhere in its file. */
function wordsIn({ body, count }: RecordView): Uint32Array {
  if (body.length !== 16 * count) throw overlayDamaged('journal', 'a record has an absurd length')
  return new Uint32Array(new Uint8Array(body).buffer)
}

function zeroOf(record: RecordView): Run {
  const [low = 0, high = 0, countLow = 0, countHigh = 0] = wordsIn(record)
  return { ...blockFrom(low, high), count: blockFrom(countLow, countHigh).block }
}

function mustHave(disks: readonly DiskMap[], disk: number, block: number, count: number): DiskMap {
  const map = disks[disk]
  if (map === undefined || block + count > map.blocks)
    throw overlayDamaged('journal', 'a record names a block that is not there')
  return map
}

export function recoveryOf(read: ReadJournals, disks: readonly DiskMap[]): OverlayRecovery {
  const { lost, kind, unfinishedBytes } = read
  const byDisk = disks.map(map => {
    const ranges: Range[] = []
    for (const record of lost)
      for (const { disk, block, count } of runsOf(record))
        if (disks[disk] === map)
          ranges.push({ offset: block * BLOCK, length: Math.min(count * BLOCK, map.size - block * BLOCK) })
    return [map.name, mergeRanges(ranges)] as const
  })
  const told = byDisk.filter(([, ranges]) => ranges.length > 0)
  return {
    kind: told.length === 0 && unfinishedBytes === 0 && kind !== 'failed-sync' && kind !== 'damage' ? 'none' : kind,
    lost: Object.fromEntries(told),
    lostBytes: told.reduce((sum, [, ranges]) => sum + totalLength(ranges), 0),
    unfinishedBytes,
  }
}
