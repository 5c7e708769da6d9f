/**
 * The disks of an `export --writable` session move to production storage while their clients write: all of one instant is
 * copied and compared, then what was written since, again and again until that is little; then writes are refused, the rest is
 * copied, and the session ends. Nobody can move a client that is not ours: it has to open the disk at its new place.
 */
import { rm, stat } from 'node:fs/promises'
import type { BlockReader } from '../block/block-device.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits, MiB } from '../core/limits.ts'
import { type Range, rangeEnd, totalLength } from '../core/range.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { type MigrationTarget, targetExists } from '../hypervisor/qemu/migration-target.ts'
import type { Fields } from './control-protocol.ts'
import type { GatedOverlays, WriteWatch } from './gated-overlays.ts'
import type { LiveSession } from './live-session.ts'
import { openTarget, type RestoreTarget } from './restore-target.ts'
import type { CommandOptions } from './session-commands.ts'

export interface ExportMigration {
  readonly targets: readonly MigrationTarget[]
  readonly bytesPerSecond: number | undefined
}

interface Copy {
  readonly name: string
  readonly path: string
  readonly size: number
  readonly target: RestoreTarget
}

/** Ends the session; before the writes are refused, a failure leaves it as it was. */
export async function migrateExport(
  session: LiveSession,
  overlays: GatedOverlays,
  { targets, bytesPerSecond }: ExportMigration,
  { signal, progress }: CommandOptions,
): Promise<Fields> {
  const copies: Copy[] = []
  const watch = await overlays.watch()
  const pace = new Pace(session, bytesPerSecond)
  try {
    for (const { disk, target } of matched(session, targets))
      copies.push({ ...disk, path: target.path, target: await newTarget(session, target, disk.size) })
    await copyInstant(overlays, copies, pace, { signal, progress })
    await catchUp(overlays, copies, watch, pace, { signal })
    await overlays.refuseWrites('the disk is moving to another place')
    for (const copy of copies) await copyRanges(overlays.disk(copy.name), copy, watch.take(copy.name), pace, {})
    for (const { target } of copies) await target.finish()
  } catch (error) {
    for (const { target } of copies) await target.abandon()
    overlays.acceptWrites()
    throw error
  } finally {
    watch.end()
  }
  const folders = new Set(session.state().disks.flatMap(({ overlay }) => overlay?.path ?? []))
  await session.end('migrated')
  for (const folder of folders) await rm(folder, { recursive: true, force: true })
  return {
    disks: copies.map(({ name, path }) => ({ name, path, format: 'raw' })),
    warnings: [`clients must open ${copies.map(({ name, path }) => `${path} instead of ${name}`).join(', ')}`],
  }
}

function matched(session: LiveSession, targets: readonly MigrationTarget[]) {
  const raw = targets.find(({ format }) => format !== 'raw')
  if (raw)
    throw new LifeboatError('usage', `an export moves to raw files and block devices, not to ${raw.format}`, {
      hint: 'Convert it afterwards: qemu-img convert -O qcow2.',
    })
  for (const { disk } of targets)
    if (!session.disks.some(({ name }) => name === disk))
      throw new LifeboatError('no-such-disk', `session ${session.name} has no disk ${disk}`, {
        hint: `It has ${session.disks.map(({ name }) => name).join(', ')}.`,
      })
  return session.disks.map(disk => {
    const mine = targets.filter(target => target.disk === disk.name)
    const [target] = mine
    if (target && mine.length === 1) return { disk, target }
    throw new LifeboatError(
      'usage',
      `disk ${disk.name} has ${mine.length} targets: all disks move together, to one each`,
      {
        hint: session.disks.map(({ name }) => `--to ${name}=PATH`).join(' '),
      },
    )
  })
}

/** What is there is never replaced, but for a device. */
async function newTarget({ random }: LiveSession, { path: output }: MigrationTarget, size: number) {
  const onto = await isBlockDevice(output)
  return await openTarget({ output, random, onto }, size).catch((error: unknown) => {
    throw isLifeboatError(error, 'output-exists') ? targetExists(output) : error
  })
}

/** Follows links: /dev/vg/name is one. */
export const isBlockDevice = async (path: string): Promise<boolean> =>
  await stat(path).then(
    found => found.isBlockDevice(),
    () => false,
  )

/** Bytes of one read and write, and how many are under way. */
const PIECE = MiB
const PIECES_IN_FLIGHT = 4

/** Everything that all disks held at one moment, then compared with what the targets give back. */
async function copyInstant(
  overlays: GatedOverlays,
  copies: readonly Copy[],
  pace: Pace,
  { signal, progress }: CommandOptions,
): Promise<void> {
  await using frozen = await overlays.freeze({ signal })
  for (const copy of copies) {
    const { image } = frozen.disk(copy.name)
    const whole = [{ offset: 0, length: copy.size }]
    const told = (phase: 'copy' | 'verify') => (done: number) =>
      progress({ disk: copy.name, phase, done, total: copy.size })
    await copyRanges(image, copy, whole, pace, { signal, told: told('copy') })
    await compare(image, copy, { signal, told: told('verify') })
  }
}

/** Rounds, each of what was written during the one before, until little is left or it does not become less. */
async function catchUp(
  overlays: GatedOverlays,
  copies: readonly Copy[],
  watch: WriteWatch,
  pace: Pace,
  options: AbortOptions,
): Promise<void> {
  for (let before = Number.POSITIVE_INFINITY; ; ) {
    const rounds = copies.map(copy => ({ copy, ranges: watch.take(copy.name) }))
    const bytes = rounds.reduce((sum, { ranges }) => sum + totalLength(ranges), 0)
    for (const { copy, ranges } of rounds) await copyRanges(overlays.disk(copy.name), copy, ranges, pace, options)
    if (bytes <= limits.migrationLastBytes || bytes >= before) return
    before = bytes
  }
}

async function copyRanges(
  from: BlockReader,
  { target, size }: Copy,
  ranges: readonly Range[],
  pace: Pace,
  { signal, told = () => {} }: AbortOptions & { readonly told?: (done: number) => void },
): Promise<void> {
  const inOrder = new Doneness(told)
  for (const range of ranges)
    await forEachLimited(
      pieces(from, clipped(range, size), { signal }),
      PIECES_IN_FLIGHT,
      async ({ offset, length, isZero }, within) => {
        const bytes = Buffer.alloc(length)
        if (!isZero) await from.readInto(bytes, offset, { signal: within })
        await pace.take(length, within)
        // A new file has holes where nothing is written; what was written to it before the catching up has to go.
        if (!isZero || target.inPlace || range.length < size) await target.write(bytes, offset)
        inOrder.add(length)
      },
      { signal },
    )
}

async function compare(
  from: BlockReader,
  { name, path, target, size }: Copy,
  { signal, told }: AbortOptions & { readonly told: (done: number) => void },
): Promise<void> {
  const inOrder = new Doneness(told)
  await forEachLimited(
    pieces(from, { offset: 0, length: size }, { signal }),
    PIECES_IN_FLIGHT,
    async ({ offset, length, isZero }, within) => {
      const [wanted, found] = [Buffer.alloc(length), Buffer.alloc(length)]
      if (!isZero) await from.readInto(wanted, offset, { signal: within })
      await target.read(found, offset)
      if (!wanted.equals(found))
        throw new LifeboatError(
          'migration-differs',
          `disk ${name} on ${path} does not hold what was written to it, at ${offset}`,
          {
            details: { object: path, disk: name },
            hint: 'The storage did not keep what was written. The session goes on as before; migrate it to another place.',
          },
        )
      inOrder.add(length)
    },
    { signal },
  )
}

async function* pieces(
  from: BlockReader,
  range: Range,
  options: AbortOptions,
): AsyncGenerator<Range & { readonly isZero: boolean }> {
  for await (const { offset, length, kind } of from.extents(range, options))
    for (let at = offset; at < offset + length; at += PIECE)
      yield { offset: at, length: Math.min(PIECE, offset + length - at), isZero: kind === 'zero' }
}

const clipped = (range: Range, size: number): Range => ({
  offset: range.offset,
  length: Math.min(rangeEnd(range), size) - range.offset,
})

class Doneness {
  #done = 0
  readonly #told: (done: number) => void

  constructor(told: (done: number) => void) {
    this.#told = told
  }

  add(bytes: number): void {
    this.#done += bytes
    this.#told(this.#done)
  }
}

/** At most so many bytes a second since the beginning. */
class Pace {
  readonly #session: LiveSession
  readonly #bytesPerSecond: number | undefined
  readonly #began: number
  #bytes = 0

  constructor(session: LiveSession, bytesPerSecond: number | undefined) {
    this.#session = session
    this.#bytesPerSecond = bytesPerSecond
    this.#began = session.clock.monotonicMs()
  }

  async take(bytes: number, signal: AbortSignal): Promise<void> {
    this.#bytes += bytes
    if (this.#bytesPerSecond === undefined) return
    const { clock } = this.#session
    const due = this.#began + (this.#bytes / this.#bytesPerSecond) * 1000
    const early = due - clock.monotonicMs()
    if (early > 0) await clock.sleep(early, { signal })
  }
}
