/** Damage of an overlay's files: refused, or brought back to the last flush and said so; never served. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryDevice } from '../../../src/block/memory.ts'
import { openOverlays } from '../../../src/block/overlay.ts'
import { JOURNAL_HEAD, JOURNAL_TAIL, KIND_MARK, recordAt } from '../../../src/block/overlay-format.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { PowerCutFiles } from '../../doubles/power-cut-files.ts'
import { drawing } from '../../doubles/power-cut-inode.ts'

const BLOCK = 4096
const BLOCKS = 600

const begun = (host: PowerCutFiles, bootId: string) =>
  openOverlays({
    folder: '/o',
    disks: [{ name: 'disk', base: memoryDevice(Buffer.alloc(BLOCKS * BLOCK)) }],
    files: host.files(),
    clock: manualClock(),
    bootId,
    reserve: 1 << 18,
  })

const LOTS = Number(process.env.LOTS ?? 12)

const CONTENTS = Array.from({ length: 256 }, (_, version) => Buffer.alloc(BLOCK, version))
const content = (version: number) => CONTENTS[version]!

/** A map, a journal behind it with flushed and unflushed records, all as a killed process leaves it. */
async function killed() {
  const host = new PowerCutFiles(drawing(1))
  const overlays = await begun(host, 'boot')
  const disk = overlays.disk('disk')
  const flushed = new Array<number>(BLOCKS).fill(0)
  const latest = new Array<number>(BLOCKS).fill(0)
  const write = async (block: number, version: number) => {
    latest[block] = version
    await disk.write(content(version), block * BLOCK)
  }
  for (let n = 0; n < 40; n++) await write(n * 13, 1 + n)
  await using _frozen = await overlays.freeze()
  for (let n = 0; n < 20; n++) await write(n * 26, 50 + n)
  await disk.zero({ offset: 13 * BLOCK, length: 14 * BLOCK })
  latest.fill(0, 13, 27)
  await disk.flush()
  latest.forEach((version, block) => {
    flushed[block] = version
  })
  for (let n = 0; n < 20; n++) await write(n * 29, 100 + n)
  host.kill()
  return { host, flushed, latest }
}

type Story = Awaited<ReturnType<typeof killed>>

/** 'refused', 'repaired', 'failed' reads, or 'unharmed'; a wrong byte or a silent loss is an assertion. */
async function judge(host: PowerCutFiles, { flushed, latest }: Story, bootId: string, what: string): Promise<string> {
  let overlays: Awaited<ReturnType<typeof begun>>
  try {
    overlays = await begun(host, bootId)
  } catch (error) {
    assert.ok(isLifeboatError(error, 'overlay-damaged') || isLifeboatError(error, 'session-newer'), `${what}: ${error}`)
    return 'refused'
  }
  let verdict = 'unharmed'
  const bytes = Buffer.alloc(BLOCK)
  const disk = overlays.disk('disk')
  const { kind, lostBytes, unfinishedBytes } = overlays.recovery
  const told = kind === 'damage' || (kind !== 'none' && (lostBytes > 0 || unfinishedBytes > 0))
  const whole = Buffer.alloc(BLOCKS * BLOCK)
  const readsWhole = await disk.readInto(whole, 0).then(
    () => true,
    () => false,
  )
  for (let block = 0; block < BLOCKS; block++) {
    if (readsWhole && whole.subarray(block * BLOCK, (block + 1) * BLOCK).equals(content(latest[block]!))) continue
    try {
      await disk.readInto(bytes, block * BLOCK)
    } catch (error) {
      assert.ok(isLifeboatError(error, 'overlay-damaged'), `${what}: ${error}`)
      verdict = 'failed'
      continue
    }
    const isLatest = bytes.equals(content(latest[block]!))
    if (isLatest) continue
    assert.ok(
      bytes.equals(content(flushed[block]!)),
      `${what}: block ${block} is ${bytes[0]}, served as if it were whole`,
    )
    assert.ok(told, `${what}: block ${block} has gone back to the last flush, and nobody was told`)
    if (verdict === 'unharmed') verdict = 'repaired'
  }
  host.kill()
  return verdict
}

test('flipped bits and cut-off files are refused, repaired to the last flush and told, or fail the read', async t => {
  const story = await killed()
  const paths = story.host.paths().filter(path => story.host.contents(path).length > 0)
  const verdicts: Record<string, number> = {}
  const tryOne = async (path: string, change: (bytes: Buffer) => Buffer, what: string, bootId = 'boot') => {
    const host = story.host.copy()
    host.replace(path, change(Buffer.from(host.contents(path))))
    const verdict = await judge(host, story, bootId, `${path} ${what}`)
    verdicts[verdict] = (verdicts[verdict] ?? 0) + 1
  }
  const flipped = (at: number, mask: number) => (bytes: Buffer) => {
    bytes[at]! ^= mask
    return bytes
  }
  const draw = drawing(7)
  for (const path of paths) {
    const size = usedBytes(story.host.contents(path))
    const ends = [...Array(Math.min(size, LOTS * 2)).keys()].flatMap(n => [n, size - 1 - n])
    for (const at of new Set(ends)) await tryOne(path, flipped(at, 1 << Math.floor(draw() * 8)), `byte ${at}`)
    for (let n = 0; n < LOTS; n++) {
      const at = Math.floor(draw() * size)
      await tryOne(path, flipped(at, 1 << Math.floor(draw() * 8)), `byte ${at}`)
    }
    for (let n = 0; n < LOTS; n++) {
      const length = n < LOTS / 2 ? size - 1 - n : Math.floor(draw() * size)
      await tryOne(path, bytes => bytes.subarray(0, Math.max(0, length)), `cut off at ${length}`)
    }
  }
  t.diagnostic(`${paths.join(', ')}: ${JSON.stringify(verdicts)}, silent wrong reads 0`)
  assert.ok(verdicts.refused! > 0 && verdicts.failed! > 0)
})

test('a journal that was cut off anywhere behind its last flush is told, also where a record ended', async t => {
  const story = await killed()
  const path = '/o/journal-2'
  const bytes = story.host.contents(path)
  const ends = recordEnds(bytes)
  const last = ends.at(-1)!
  const marked = ends.findLast(end => recordAt(bytes, end)?.kind === KIND_MARK)!
  const verdicts: Record<string, number> = {}
  const cutAt = async (length: number) => {
    const host = story.host.copy()
    host.replace(path, bytes.subarray(0, length))
    const verdict = await judge(host, story, 'boot', `cut off at ${length}`)
    verdicts[verdict] = (verdicts[verdict] ?? 0) + 1
    return verdict
  }
  const behindTheMark = ends.filter(end => end > marked && end < last)
  for (const end of behindTheMark)
    for (const length of [end, end + 1, end + JOURNAL_TAIL - 1, end + JOURNAL_TAIL, end + JOURNAL_TAIL + 1])
      assert.equal(await cutAt(length), 'repaired', `${length}`)
  // All that counts is there: the reserved space is no part of it.
  for (const length of [last + JOURNAL_TAIL, bytes.length - 1, bytes.length])
    assert.equal(await cutAt(length), 'unharmed', `${length}`)
  t.diagnostic(`${behindTheMark.length} records behind the last mark: ${JSON.stringify(verdicts)}`)
  assert.ok(behindTheMark.length >= 10)
})

test('a file that is gone is refused by its name, also the first journal of an overlay that was written to', async () => {
  const { host } = await killed()
  const young = new PowerCutFiles(drawing(2))
  const disk = (await begun(young, 'boot')).disk('disk')
  await disk.write(content(7), 0, { fua: true })
  young.kill()
  const without = async (whole: PowerCutFiles, name: string) => {
    const left = whole.copy()
    await left.files().unlink(`/o/${name}`)
    await assert.rejects(
      begun(left, 'boot'),
      (error: unknown) =>
        isLifeboatError(error, 'overlay-damaged') && new RegExp(`${name}|${name.split('-')[0]}`).test(error.message),
      name,
    )
  }
  for (const name of ['map', 'data', 'journal-2']) await without(host, name)
  for (const name of ['map', 'data', 'journal-1']) await without(young, name)
})

/** Without the space that is reserved for what comes next, but for the first of it. */
function usedBytes(bytes: Buffer): number {
  let used = bytes.length
  while (used > 0 && bytes[used - 1] === 0) used--
  return Math.min(bytes.length, used + JOURNAL_TAIL)
}

/** Where records end, each of a mark's two as well. */
function recordEnds(bytes: Buffer): number[] {
  const ends: number[] = []
  for (let record = recordAt(bytes, JOURNAL_HEAD); record !== undefined; record = recordAt(bytes, record.end))
    ends.push(record.end)
  return ends
}
