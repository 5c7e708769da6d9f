/** What an overlay's journals say after its process or its host has died: which records count, and what was lost. */

import { limits } from '../core/limits.ts'
import type { Range } from '../core/range.ts'
import type { OverlayFile, OverlayFiles } from './overlay-files.ts'
import * as F from './overlay-format.ts'

export const journalName = (number: number): string => `journal-${number}`

/** What was found at opening that a person should know. */
export interface OverlayRecovery {
  /**
   * 'crash': the process ended without closing, nothing that was acknowledged is lost. 'power-loss', 'failed-sync' and
   * 'damage': everything that was flushed is there, later writes are not. Of damage what is lost is not always known.
   */
  readonly kind: 'none' | 'crash' | 'power-loss' | 'failed-sync' | 'damage'
  /** By disk; neighbours joined, and no more than some thousand. */
  readonly lost: Readonly<Record<string, readonly Range[]>>
  readonly lostBytes: number
  /** Bytes at the end of the journal that are no whole record: a write that was never acknowledged. */
  readonly unfinishedBytes: number
}

export interface ReadJournals {
  /** Those that count, in order. */
  readonly records: readonly F.RecordView[]
  readonly lost: readonly F.RecordView[]
  readonly kind: OverlayRecovery['kind']
  readonly unfinishedBytes: number
  /** The last record that counts. */
  readonly sequence: number
  /** The newest journal's number; one below the map's where there is none. */
  readonly number: number
}

export interface JournalPlace {
  readonly files: OverlayFiles
  readonly path: (name: string) => string
  readonly id: string
  readonly bootId: string
}

/** Reads the journals from the map's on. Throws 'overlay-damaged' where something that was flushed cannot be had. */
export async function readJournals(place: JournalPlace, first: number, synced: number): Promise<ReadJournals> {
  const names = new Set(await place.files.names(place.path('.')))
  const journals: Journal[] = []
  for (let number = first; names.has(journalName(number)); number++) journals.push(await readJournal(place, number))
  for (const name of names) {
    const number = Number(/^journal-(\d+)$/.exec(name)?.[1])
    if (number >= first + journals.length) throw F.overlayDamaged('journal', `one before ${name} is missing`)
  }
  const newest = journals.at(-1)
  if (newest === undefined && first === 1 && synced === 0)
    return { records: [], lost: [], kind: 'crash', unfinishedBytes: 0, sequence: 0, number: 0 }
  if (newest === undefined) throw F.overlayDamaged('journal', `${journalName(first)} is missing`)
  // A later opening may have gone back behind what an earlier journal holds: records count up to the least of these.
  const until = journals.map((_, n) => Math.min(...journals.slice(n + 1).map(({ opening }) => opening.after)))
  const reaches = journals.map(({ contents, opening }) => contents.found.at(-1)?.sequence ?? opening.after)
  for (const [n, { opening }] of journals.entries())
    if (Number.isFinite(until[n]) && until[n]! > Math.max(reaches[n]!, synced))
      throw F.overlayDamaged(journalName(opening.number), 'records that later ones follow are gone')
  const reach = Math.max(synced, ...reaches.map((last, n) => Math.min(last, until[n]!)))
  const marked = Math.max(synced, ...journals.flatMap(({ contents }) => contents.marks))
  const { contents, opening } = newest
  if (marked > reach || (contents.note !== undefined && contents.note.end > contents.end && !contents.later))
    throw F.overlayDamaged(journalName(opening.number), 'records that were flushed are gone')
  const kind = kindOf(newest, place.bootId)
  const sequence = kind === 'crash' ? reach : marked
  const all = journals.flatMap(({ contents }, n) => contents.found.filter(record => record.sequence <= until[n]!))
  return {
    records: all.filter(record => record.sequence > synced && record.sequence <= sequence),
    lost: all.filter(record => record.sequence > sequence),
    kind,
    unfinishedBytes: contents.unfinished,
    sequence,
    number: opening.number,
  }
}

function kindOf({ contents, opening }: Journal, bootId: string): OverlayRecovery['kind'] {
  if (contents.failed) return 'failed-sync'
  if (opening.bootId !== bootId) return 'power-loss'
  return contents.later || contents.cutOff ? 'damage' : 'crash'
}

interface Journal {
  readonly opening: F.JournalOpening
  readonly contents: Contents
}

interface Contents {
  /** Blocks and zeros, one after the other without a gap. */
  readonly found: readonly F.RecordView[]
  readonly marks: readonly number[]
  readonly end: number
  readonly failed: boolean
  /** Behind the first thing that is no record there are records again. */
  readonly later: boolean
  readonly cutOff: boolean
  readonly note: { readonly end: number } | undefined
  readonly unfinished: number
}

async function readJournal({ files, path, id }: JournalPlace, number: number): Promise<Journal> {
  const name = journalName(number)
  const file = await files.open(path(name), { create: false })
  try {
    const bytes = await readWhole(file, name, limits.overlayJournalMax)
    const opening = F.parseOpening(bytes, name)
    if (opening.id !== id || opening.number !== number)
      throw F.overlayDamaged(name, 'it belongs to another overlay or place')
    return { opening, contents: contentsOf(bytes, opening.after, name) }
  } finally {
    await file.close()
  }
}

export async function readWhole(file: OverlayFile, name: string, max: number): Promise<Buffer> {
  const size = await file.size()
  if (size > max) throw F.overlayDamaged(name, `it has ${size} bytes`)
  const bytes = Buffer.allocUnsafeSlow(size)
  const length = await file.readAt(bytes, 0)
  return bytes.subarray(0, length)
}

function contentsOf(bytes: Buffer, after: number, name: string): Contents {
  if (bytes.length < F.JOURNAL_HEAD) throw F.overlayDamaged(name, 'it is cut off')
  const found: F.RecordView[] = []
  const marks: number[] = []
  let failed = false
  let sequence = after
  let at: number = F.JOURNAL_HEAD
  const side = (record: F.RecordView) => {
    if (record.kind === F.KIND_MARK) marks.push(F.markedBy(record))
    else if (record.kind === F.KIND_FAILED) failed = true
  }
  for (;;) {
    const record = F.recordAt(bytes, at)
    if (record === undefined) {
      // Of a mark, which stands there twice, the second one does as well.
      const again = F.recordAt(bytes, at + F.RECORD_HEAD + 8)
      if (again?.kind !== F.KIND_MARK) break
      side(again)
      at = again.end
      continue
    }
    if (record.kind === F.KIND_BLOCKS || record.kind === F.KIND_ZERO) {
      if (record.sequence !== sequence + 1) break
      sequence = record.sequence
      found.push(record)
    } else side(record)
    at = record.end
  }
  let later = false
  for (const record of F.laterRecords(bytes, at)) {
    if (record.kind === F.KIND_OPEN || (record.kind !== F.KIND_MARK && record.sequence <= sequence)) continue
    later = true
    side(record)
  }
  const rest = bytes.subarray(at)
  let unfinished = rest.length
  while (unfinished > 0 && rest[unfinished - 1] === 0) unfinished--
  return { found, marks, end: at, failed, later, cutOff: F.isCutOff(bytes, at), note: lastNote(bytes), unfinished }
}

function lastNote(bytes: Buffer): { end: number } | undefined {
  const ends = F.NOTE_POSITIONS.flatMap(at => {
    const record = F.recordAt(bytes.subarray(0, at + 512), at)
    return record?.kind === F.KIND_MARK ? [F.markedBy(record)] : []
  })
  return ends.length === 0 ? undefined : { end: Math.max(...ends) }
}
