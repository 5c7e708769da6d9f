/**
 * Overlay: the writable layer over read-only images, for clients that are not booted by Lifeboat itself.
 *
 * What it is: all disks of one session as devices over their bases. Writes go to a folder of this host, in the form that
 * docs/overlay-format.md tells.
 * What it guarantees: an acknowledged write survives the death of the process, a flushed one the loss of power; any other
 * block of 4 KiB is then wholly old or wholly new. A failed fsync is never forgotten. Damage is told, never served.
 * What it does not know: where the base comes from, who writes, and any wire format.
 */

import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Random, systemRandom } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { BlockReader } from './block-device.ts'
import { MapKeeper } from './overlay-checkpoint.ts'
import { type OverlayDisk, WritableDisk } from './overlay-disk.ts'
import type { OverlayFiles } from './overlay-files.ts'
import * as F from './overlay-format.ts'
import { Freezer, type FrozenOverlays } from './overlay-freeze.ts'
import { createJournal, Journal } from './overlay-journal.ts'
import { DiskMap, type MapShare } from './overlay-map.ts'
import { type OverlayPlace, writeMap } from './overlay-place.ts'
import { journalName, type OverlayRecovery, readJournals, readWhole } from './overlay-recovery.ts'
import { recoveryOf, replay } from './overlay-replay.ts'
import { SlotSpace } from './overlay-space.ts'
import { OverlayStore } from './overlay-store.ts'

/** All disks of one session: one owner, one instant. */
export interface Overlays extends AsyncDisposable {
  disk(name: string): OverlayDisk
  /** One instant over all disks, after everything that was acknowledged before the call. One at a time. */
  freeze(options?: AbortOptions): Promise<FrozenOverlays>
  /** What the last opening found. */
  readonly recovery: OverlayRecovery
  /** Names what lies below: see `OpenOverlays.baseLabel`. */
  readonly baseLabel: string
}

export interface OpenOverlays {
  readonly folder: string
  readonly disks: readonly { readonly name: string; readonly base: BlockReader }[]
  readonly files: OverlayFiles
  readonly clock: Clock
  readonly random?: Random
  /** Of this host since it was started: /proc/sys/kernel/random/boot_id. */
  readonly bootId: string
  /** Bytes that are reserved ahead of the writes. */
  readonly reserve?: number
  /** A write is acknowledged when it is durable. */
  readonly durableReplies?: boolean
  /**
   * The caller's name for what lies below, such as the id of a point. Kept with the overlay and changed by `settle`; opening
   * with another one is refused, for the blocks would not fit. An overlay without one fits all.
   */
  readonly baseLabel?: string
}

/** The label of the base that an overlay in this folder wants; undefined where there is no overlay. */
export async function overlayBaseLabel(files: OverlayFiles, folder: string): Promise<string | undefined> {
  const stored = await readMap(files, folder)
  return stored?.header.baseLabel
}

/** Creates or resumes. Throws 'session-busy', 'overlay-damaged' or 'session-newer'. */
export async function openOverlays(options: OpenOverlays): Promise<Overlays> {
  const { files, folder } = options
  await files.makeFolder(folder)
  await using stack = new AsyncDisposableStack()
  const lock = await files.lock(path.join(folder, 'lock'))
  if (lock === undefined)
    throw new LifeboatError('session-busy', 'another process has this overlay open', {
      details: { object: folder },
      hint: 'End that process first, or use the export that it serves.',
    })
  stack.use(lock)
  const stored = (await readMap(files, folder)) ?? (await create(options))
  const { header } = stored
  mustFit(options, header)
  const data = await files.open(path.join(folder, 'data'), { create: false }).catch((cause: NodeJS.ErrnoException) => {
    throw cause.code === 'ENOENT' ? F.overlayDamaged('data', 'it is gone') : cause
  })
  stack.defer(() => data.close())
  const share: MapShare = { data, resident: 0, dirty: 0 }
  const disks = header.disks.map(({ name }, n) => {
    const base = options.disks.find(disk => disk.name === name)!.base
    return new DiskMap(n, name, base, share, stored.disks[n])
  })
  const place: OverlayPlace = { files, folder, id: header.id, bootId: options.bootId }
  const read = await readJournals({ ...place, path: name => path.join(folder, name) }, header.journal, header.sequence)
  // Its first journal may be missing only as long as nothing was written.
  if (read.number === 0 && (await data.size()) > 0) throw F.overlayDamaged('journal', `${journalName(1)} is missing`)
  const space = new SlotSpace(data, stored.used, header.slots, options.reserve ?? limits.overlayReserve)
  await replay(read.records, disks, space, data)
  const older = await olderJournals(options, header.journal, read.number, stack)
  const journal = await createJournal(place, read.number + 1, read.sequence)
  const store = new OverlayStore(data, space, disks, share, [...older, journal], read.sequence, options.clock)
  stack.defer(async () => {
    for (const { file } of store.journals) await file.close()
  })
  const keeper = new MapKeeper(place, store, header.baseLabel, options.clock)
  const owned = stack.move()
  const devices = new Map(
    disks.map(map => [map.name, new WritableDisk(map, store, options.durableReplies === true)] as const),
  )
  const freezer = new Freezer(store, keeper)
  return {
    disk(name) {
      const device = devices.get(name)
      if (device === undefined) throw new LifeboatError('no-such-disk', `the overlay has no disk ${name}`)
      return device
    },
    freeze: freezeOptions => freezer.freeze(freezeOptions),
    recovery: recoveryOf(read, disks),
    get baseLabel() {
      return keeper.label
    },
    async [Symbol.asyncDispose]() {
      await store.drained()
      // So that the next opening has nothing to replay. What cannot be done now, it does.
      if (store.sync.failure === undefined)
        await store.sync
          .flush()
          .then(() => keeper.want())
          .catch(() => {})
      await keeper.exclusively(async () => {})
      await store.drained()
      await owned.disposeAsync()
    },
  }
}

async function readMap(files: OverlayFiles, folder: string): Promise<F.OverlayMap | undefined> {
  const names = await files.names(folder).catch(() => [] as readonly string[])
  if (!names.includes('map')) {
    if (names.some(name => /^journal-\d+$/.test(name))) throw F.overlayDamaged('map', 'it is gone')
    return undefined
  }
  const file = await files.open(path.join(folder, 'map'), { create: false })
  try {
    return F.parseMap(await readWhole(file, 'map', limits.overlayMapMax))
  } finally {
    await file.close()
  }
}

/** The map makes it an overlay. The first journal comes behind it, and may be missing after a crash in between. */
async function create({
  files,
  folder,
  disks,
  baseLabel = '',
  bootId,
  random = systemRandom,
}: OpenOverlays): Promise<F.OverlayMap> {
  const data = await files.open(path.join(folder, 'data'), { create: true })
  try {
    await data.truncate(0)
    await data.sync()
  } finally {
    await data.close()
  }
  const header: F.MapHeader = {
    id: Buffer.from(random(16)).toString('hex'),
    baseLabel,
    journal: 1,
    sequence: 0,
    slots: 0,
    disks: disks.map(({ name, base }) => ({ name, size: base.size, pages: 0 })),
  }
  const place = { files, folder, id: header.id, bootId }
  const none = {
    indexes: new Uint32Array(0),
    locations: new Uint32Array(0),
    checks: new Uint32Array(0),
    bits: new Uint8Array(0),
  }
  await writeMap(
    place,
    F.encodeMap(
      header,
      disks.map(() => none),
      new Uint8Array(0),
    ),
  )
  return { header, disks: disks.map(() => none), used: new Uint8Array(0) }
}

function mustFit({ disks, baseLabel, folder }: OpenOverlays, header: F.MapHeader): void {
  const known = header.disks.map(({ name, size }) => `${name} (${size} bytes)`).join(', ')
  const fits =
    disks.length === header.disks.length &&
    header.disks.every(({ name, size }) => disks.some(disk => disk.name === name && disk.base.size === size))
  if (!fits)
    throw new LifeboatError('usage', `the overlay in ${folder} is one of other disks: ${known}`, {
      hint: 'Name the image or point that it was begun with.',
    })
  if (baseLabel !== undefined && header.baseLabel !== '' && baseLabel !== header.baseLabel)
    throw new LifeboatError('usage', `the overlay in ${folder} lies over ${header.baseLabel}, not over ${baseLabel}`, {
      hint: 'Put the folder back that belongs there. Without it, what was written is lost: discard the session and begin anew.',
    })
}

/** The journals that were replayed, until a map makes them needless. What the next one follows is durable before that one is. */
async function olderJournals(
  { files, folder }: OpenOverlays,
  first: number,
  last: number,
  stack: AsyncDisposableStack,
): Promise<Journal[]> {
  const numbers = (await files.names(folder))
    .map(name => Number(/^journal-(\d+)$/.exec(name)?.[1]))
    .filter(number => number <= last)
    .sort((a, b) => a - b)
  const journals: Journal[] = []
  for (const number of numbers) {
    const name = path.join(folder, journalName(number))
    if (number < first) {
      await files.unlink(name).catch(() => {})
      continue
    }
    const file = await files.open(name, { create: false })
    stack.defer(() => file.close())
    await file.sync()
    journals.push(new Journal(number, file, 0))
  }
  return journals
}
