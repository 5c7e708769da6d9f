/**
 * The files of an overlay in which 100 GiB were written in blocks of 4 KiB at random places: every page of the map is full and
 * names slots without any order, and as much stands in the journal as there ever does. What the blocks hold is left out.
 */
import path from 'node:path'
import { nodeOverlayFiles } from '../src/block/overlay-files.ts'
import * as F from '../src/block/overlay-format.ts'
import { createJournal } from '../src/block/overlay-journal.ts'
import { putBlock } from '../src/block/overlay-pages.ts'
import { writeMap } from '../src/block/overlay-place.ts'
import { limits } from '../src/core/limits.ts'

const ID = 'scattered'

export async function scatteredOverlay(folder: string, size: number, bootId: string): Promise<void> {
  const files = nodeOverlayFiles
  await files.makeFolder(folder)
  const blocks = size / F.BLOCK
  const pages = blocks / F.PAGE_BLOCKS
  // A walk through all slots that looks like none: multiplication by a number without a common factor.
  const slotOf = (block: number) => (block * 7_368_787) % blocks
  const data = await files.open(path.join(folder, 'data'), { create: true })
  const checks = new Uint32Array(pages)
  for (let first = 0; first < pages; first += 256) {
    const parts = Array.from({ length: Math.min(256, pages - first) }, (_, n) => {
      const words = new Uint32Array(2 * F.PAGE_BLOCKS)
      for (let at = 0; at < F.PAGE_BLOCKS; at++) {
        words[2 * at] = slotOf((first + n) * F.PAGE_BLOCKS + at) + F.FIRST_SLOT
        words[2 * at + 1] = at
      }
      return new Uint8Array(words.buffer)
    })
    const positions = Float64Array.from(parts, (_, n) => (blocks + first + n) * F.BLOCK)
    const some = checks.subarray(first, first + parts.length)
    await data.writeBlocks(
      { parts, positions, checks: some, log: data, record: new Uint8Array(0), recordPosition: 0 },
      false,
    )
  }
  await data.sync()
  await data.close()
  const place = { files, folder, id: ID, bootId }
  const slots = blocks + pages
  const disk: F.MapDisk = {
    indexes: Uint32Array.from({ length: pages }, (_, n) => n),
    locations: Uint32Array.from({ length: pages }, (_, n) => blocks + n + F.FIRST_SLOT),
    checks,
    bits: new Uint8Array(pages * 64).fill(0xff),
  }
  const header = { id: ID, baseLabel: '', journal: 1, sequence: 0, slots, disks: [{ name: 'disk', size, pages }] }
  await writeMap(place, F.encodeMap(header, [disk], new Uint8Array(Math.ceil(slots / 8)).fill(0xff)))
  const journal = await createJournal(place, 1, 0)
  const batch = 32
  for (let n = 0; n < (2 * limits.overlayPagesDirty) / batch; n++) {
    const record = F.newRecord(F.KIND_BLOCKS, n + 1, batch, 16 * batch)
    const words = new Uint32Array(record.buffer, F.RECORD_HEAD, 4 * batch)
    for (let at = 0; at < batch; at++) {
      const write = n * batch + at
      putBlock(words, 2 * at, 0, (write * 104_729) % blocks)
      words[2 * batch + at] = slots + write + F.FIRST_SLOT
      words[3 * batch + at] = 0
    }
    await journal.append(F.sealRecord(record))
  }
  await journal.file.sync()
  await journal.file.close()
}
