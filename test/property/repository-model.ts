/**
 * Random operations on a repository, beside a plain model of it: images as arrays of bytes. What the model still has must
 * read back exactly, what it has not must not be there, and when nothing is left nothing is stored.
 */
import assert from 'node:assert/strict'
import { isLifeboatError } from '../../src/core/errors.ts'
import type { PointId } from '../../src/core/ids.ts'
import { seededRandom } from '../../src/core/random.ts'
import type { Range } from '../../src/core/range.ts'
import { forgetPoints } from '../../src/maintenance/forget.ts'
import { collectGarbage } from '../../src/maintenance/gc.ts'
import { maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { pointImage } from '../../src/repository/image.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import type { RecoveryPoint } from '../../src/repository/repository.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import type { MemoryStore } from '../../src/storage/memory.ts'
import { type ManualClock, manualClock } from '../doubles/manual-clock.ts'
import {
  beginBackup,
  commitBackup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
  summaryOf,
  writeDisk,
} from '../doubles/memory-repository.ts'
import { type Dice, dice as diceOf } from '../simulation/schedule/dice.ts'

const C = 4096
const CHUNKS_MAX = 150
const VMS = ['web', 'db']

interface ModelPoint {
  readonly number: number
  readonly vm: string
  readonly image: Uint8Array
  isForgotten: boolean
}

interface Opened {
  readonly held: ModelPoint
  readonly point: RecoveryPoint
}

interface Run {
  readonly dice: Dice
  readonly store: MemoryStore
  readonly clock: ManualClock
  readonly repository: OpenedRepository
  /** In the order of their making. Forgotten ones stay until they are collected. */
  points: ModelPoint[]
  readonly open: Set<Opened>
  made: number
  readonly log: string[]
}

/** Throws with the seed and all operations up to the one that went wrong. */
export async function runModel(seed: number, operations: number): Promise<void> {
  const store = await newMemoryRepository({ seed: 'model', chunkSize: C })
  const clock = manualClock()
  const repository = await openMemoryRepository(store, { seed: `model ${seed}`, clock, leaseExpiryMs: 60_000 })
  const run: Run = { dice: diceOf(seed), store, clock, repository, points: [], open: new Set(), made: 0, log: [] }
  try {
    for (let n = 0; n < operations; n++) {
      await run.dice.pick(CHOICES)(run)
      await agree(run)
    }
    await end(run)
  } catch (error) {
    const what = error instanceof Error ? (error.stack ?? error.message) : String(error)
    throw new Error(`seed ${seed}, after\n  ${run.log.join('\n  ')}\n${what}`, { cause: error })
  }
}

type Operation = (run: Run) => Promise<void>

const kept = ({ points }: Run, vm?: string): ModelPoint[] =>
  points.filter(point => !point.isForgotten && (vm === undefined || point.vm === vm))

const idOf = ({ number }: ModelPoint): PointId => pointNumber(number)

/** A point upon another one of its VM, perhaps upon one that has just been forgotten, or whole; sometimes given up half-way. */
const write: Operation = async run => {
  const { dice, repository, points, log } = run
  const vm = dice.pick(VMS)
  const candidates = points.filter(point => point.vm === vm)
  const base =
    candidates.length > 0 && !dice.chance(0.25)
      ? candidates.at(-1 - dice.roll(Math.min(3, candidates.length)))
      : undefined
  const number = ++run.made
  const { image, changed } = edited(dice, base?.image ?? new Uint8Array())
  const isGivenUp = dice.chance(0.1)
  log.push(`${vm} writes ${number}${base ? ` upon ${base.number}` : ''}${isGivenUp ? ' and gives up' : ''}`)
  await using writer = await beginBackup(repository, { vm, number, disks: [], bases: base ? [idOf(base)] : [] })
  const passed = base !== undefined && writer.bases.has(idOf(base))
  assert.equal(passed, base !== undefined && !base.isForgotten, 'a base counts unless it was forgotten')
  await writeDisk(repository, writer, {
    name: 'vda',
    image,
    ...(passed ? { base: idOf(base), changed } : {}),
  })
  if (isGivenUp) return
  await commitBackup(writer)
  points.push({ number, vm, image, isForgotten: false })
}

function edited(dice: Dice, before: Uint8Array): { image: Uint8Array; changed: Range[] } {
  const sizes = [before.length, dice.roll(CHUNKS_MAX * C), (1 + dice.roll(CHUNKS_MAX)) * C]
  const size = before.length === 0 ? sizes[2]! : dice.pick([sizes[0]!, ...sizes])
  const image = new Uint8Array(size)
  image.set(before.subarray(0, size))
  const changed: Range[] = []
  const chunks = Math.ceil(size / C)
  for (let edits = dice.roll(4); edits > 0 && chunks > 0; edits--) {
    const first = dice.roll(chunks)
    const end = Math.min(size, (first + 1 + dice.roll(30)) * C)
    const kind = dice.roll(12)
    for (let at = first * C; at < end; at += C) image.set(content(dice, kind).subarray(0, Math.min(C, end - at)), at)
    changed.push({ offset: first * C, length: end - first * C })
  }
  return { image, changed }
}

const known = new Map<number, Uint8Array>()

/** Zeros, or one of a few contents, so that there is much to deduplicate. */
function content(dice: Dice, kind: number): Uint8Array {
  const number = kind === 0 ? 0 : kind * 20 + dice.roll(20)
  const bytes = known.get(number) ?? (number === 0 ? new Uint8Array(C) : seededRandom(`content ${number}`)(C))
  known.set(number, bytes)
  return bytes
}

const forget: Operation = async run => {
  const { dice, repository, points, open, log } = run
  if (points.length === 0) return
  const chosen = dice.pick(points)
  const lastPoint = dice.chance(0.5)
  const isNewest = kept(run, chosen.vm).at(-1) === chosen
  const isRead = [...open].some(({ held }) => held === chosen)
  const mustStay = !chosen.isForgotten && (isRead || (isNewest && !lastPoint))
  log.push(`forget ${chosen.number}${lastPoint ? ' even if it is the last' : ''}`)
  const forgetting = forgetPoints(
    maintenanceContext(repository, 'model'),
    [await summaryOf(repository, idOf(chosen))],
    {
      why: 'the model says so',
      lastPoint,
    },
  )
  if (mustStay) await assert.rejects(forgetting, error => isLifeboatError(error, 'point-protected'))
  else {
    await forgetting
    chosen.isForgotten = true
  }
}

const collect: Operation = async run => {
  const { repository, store, log } = run
  log.push('gc')
  await withTime(run, collectGarbage(maintenanceContext(repository, 'model'), { graceMs: 1000 }))
  run.points = run.points.filter(point => !point.isForgotten)
  assert.deepEqual(keysOf(store, 'points/').length, run.points.length, 'no manifest stays for nobody')
  assert.deepEqual(keysOf(store, 'forgotten/'), [])
  assert.deepEqual(keysOf(store, 'gc/'), [])
  if (run.points.length === 0)
    assert.deepEqual([...keysOf(store, 'packs/'), ...keysOf(store, 'meta/')], [], 'nothing is left for nobody')
}

/** Lets time pass until it is done. */
async function withTime({ clock }: Run, work: Promise<unknown>): Promise<void> {
  let isDone = false
  const settle = () => {
    isDone = true
  }
  work.then(settle, settle)
  while (!isDone) await clock.advance(10_000)
  await work
}

const restore: Operation = async run => {
  const [point] = kept(run).length > 0 ? [run.dice.pick(kept(run))] : []
  if (!point) return
  run.log.push(`restore ${point.number}`)
  await assertReads(run, point)
}

const verify: Operation = async ({ repository, log }) => {
  log.push('verify')
  const { problems } = await verifyPoints(repository, { points: await repository.points() })
  assert.deepEqual(problems, [])
}

const openOne: Operation = async run => {
  const { dice, repository, open, log } = run
  const points = kept(run)
  if (points.length === 0 || open.size >= 2) return
  const held = dice.pick(points)
  log.push(`open ${held.number}`)
  const point = await repository.openPoint(await summaryOf(repository, idOf(held)), { pin: 'export' })
  open.add({ held, point })
}

/** What was opened long ago reads as ever. */
const readOpen: Operation = async ({ dice, open, log }) => {
  if (open.size === 0) return
  const opened = dice.pick([...open])
  log.push(`read ${opened.held.number}, which is open`)
  await using image = pointImage(opened.point.disk('vda'))
  const bytes = new Uint8Array(image.size)
  await image.readInto(bytes, 0)
  assert.ok(Buffer.compare(bytes, opened.held.image) === 0, `the open point ${opened.held.number} differs`)
}

const close: Operation = async ({ dice, open, log }) => {
  if (open.size === 0) return
  const opened = dice.pick([...open])
  log.push(`close ${opened.held.number}`)
  open.delete(opened)
  await opened.point[Symbol.asyncDispose]()
}

const CHOICES: readonly Operation[] = [
  ...[write, write, write, write],
  ...[forget, forget, forget],
  ...[collect, collect],
  ...[restore, verify],
  ...[openOne, readOpen, close],
]

async function assertReads({ repository }: Run, point: ModelPoint): Promise<void> {
  const bytes = await readBack(repository, idOf(point), 'vda')
  assert.ok(Buffer.compare(bytes, point.image) === 0, `point ${point.number} differs`)
}

/** The list of points says the same as the model. */
async function agree(run: Run): Promise<void> {
  const listed = (await run.repository.points()).map(({ id }) => id).sort()
  assert.deepEqual(
    listed,
    kept(run)
      .map(point => idOf(point))
      .sort(),
  )
}

/** Everything is read once more, then forgotten and collected. */
async function end(run: Run): Promise<void> {
  run.log.push('the end')
  for (const point of kept(run)) await assertReads(run, point)
  for (const opened of run.open) await opened.point[Symbol.asyncDispose]()
  run.open.clear()
  const points = await run.repository.points()
  await forgetPoints(maintenanceContext(run.repository, 'model'), points, { why: 'the end', lastPoint: true })
  for (const point of run.points) point.isForgotten = true
  await collect(run)
}
