/** Four writers on an overlay until the power goes or the process is killed, and what is there afterwards. */
import { memoryDevice } from '../../src/block/memory.ts'
import { type Overlays, openOverlays, overlayBaseLabel } from '../../src/block/overlay.ts'
import type { OverlayDisk } from '../../src/block/overlay-disk.ts'
import { drawnClock, PowerCutFiles } from '../doubles/power-cut-files.ts'
import { drawing } from '../doubles/power-cut-inode.ts'

const BLOCK = 4096
const BLOCKS = 64
const SECTORS = BLOCK / 512

export interface CutResult {
  /** Of 512 bytes, that had to be there and were looked at. */
  durable: number
  /** Older than what was flushed, or than what was acknowledged where only the process died. */
  lost: number
  /** Blocks that are nothing that was ever written to them. */
  invented: number
  cuts: number
  kills: number
  flushes: number
  writtenNow: number
  settlesBegun: number
  settled: number
}

/** What was written to one block, oldest first: 0 is what lay below. */
interface Written {
  versions: number[]
  acknowledged: number
  durable: number
}

const content = (version: number): Buffer => {
  const bytes = Buffer.alloc(BLOCK)
  if (version !== 0) for (let at = 0; at < BLOCK; at += 8) bytes.writeDoubleLE(version, at)
  return bytes
}

/** One story: some lives of a host, each ended by a power cut or a kill. */
export async function powerCutStory(
  seed: number,
  lives: number,
  faults: PowerCutFiles['faults'] = {},
): Promise<CutResult> {
  const draw = drawing(seed)
  const host = new PowerCutFiles(draw)
  const result: CutResult = {
    durable: 0,
    lost: 0,
    invented: 0,
    cuts: 0,
    kills: 0,
    flushes: 0,
    writtenNow: 0,
    settlesBegun: 0,
    settled: 0,
  }
  const blocks: Written[] = Array.from({ length: BLOCKS }, () => ({ versions: [0], acknowledged: 0, durable: 0 }))
  let version = 1
  let boot = 1
  /** What may lie below, by label: after each settle it is what the freeze showed. */
  const bases = new Map([['', Buffer.alloc(BLOCKS * BLOCK)]])
  for (let life = 0; life < lives; life++) {
    const label = (await overlayBaseLabel(host.files(), '/o')) ?? ''
    const overlays = await openOverlays({
      folder: '/o',
      disks: [{ name: 'disk', base: memoryDevice(bases.get(label)!) }],
      files: host.files(),
      clock: drawnClock(draw),
      bootId: `boot ${boot}`,
      reserve: 1 << 18,
    })
    Object.assign(host.faults, faults)
    const device = overlays.disk('disk')
    if (life > 0) await look(device, blocks, result)
    let alive = true
    const writers = Array.from({ length: 4 }, (_, connection) => write(device, connection))
    // The end comes at any turn of the work.
    for (let turns = 5 + Math.floor(draw() * 60); turns > 0; turns--)
      await (draw() < 0.2 ? new Promise(resolve => setImmediate(resolve)) : Promise.resolve())
    const settles = draw() < 0.3
    if (settles) void settle(overlays).catch(() => {})
    for (let turns = Math.floor(draw() * (settles ? 12 : 4)); turns > 0; turns--)
      await new Promise(resolve => setImmediate(resolve))
    alive = false
    host.faults.forgetsSyncs = false
    void writers
    if (draw() < 0.6) {
      host.cutPower()
      boot++
      result.cuts++
      for (const block of blocks) block.acknowledged = block.durable
    } else {
      host.kill()
      result.kills++
    }

    async function settle(overlays: Overlays): Promise<void> {
      const frozen = await overlays.freeze()
      const { image } = frozen.disk('disk')
      const bytes = Buffer.alloc(BLOCKS * BLOCK)
      await image.readInto(bytes, 0)
      const next = `base ${seed} ${life}`
      bases.set(next, bytes)
      result.settlesBegun++
      await frozen.settle(() => memoryDevice(bytes), { label: next })
      result.settled++
    }

    async function write(disk: OverlayDisk, connection: number): Promise<void> {
      const mine = (n: number) => connection + 4 * n
      while (alive) {
        const first = Math.floor(draw() * (BLOCKS / 4))
        const count = draw() < 0.3 ? 2 : 1
        const fua = draw() < 0.1
        const targets = Array.from({ length: count }, (_, n) => mine((first + n) % (BLOCKS / 4)))
        const kind = draw()
        if (kind < 0.05) {
          const covered = blocks.map(({ acknowledged }) => acknowledged)
          await disk.flush()
          if (!alive) return
          result.flushes++
          blocks.forEach((block, n) => {
            block.durable = Math.max(block.durable, covered[n]!)
          })
          continue
        }
        await Promise.all(
          targets.map(async n => {
            const block = blocks[n]!
            const zero = kind > 0.9
            block.versions.push(zero ? -version : version)
            const place = block.versions.length - 1
            const bytes = content(version++)
            if (zero) await disk.zero({ offset: n * BLOCK, length: BLOCK }, { fua })
            else if (fua || draw() < 0.5 || disk.writeNow?.([{ bytes, offset: n * BLOCK }]) !== true)
              await disk.write(bytes, n * BLOCK, { fua })
            else result.writtenNow++
            if (!alive) return
            block.acknowledged = Math.max(block.acknowledged, place)
            if (fua) block.durable = Math.max(block.durable, place)
          }),
        )
      }
    }
  }
  return result
}

async function look(device: OverlayDisk, blocks: Written[], result: CutResult): Promise<void> {
  const bytes = Buffer.alloc(BLOCK)
  for (const [n, block] of blocks.entries()) {
    const oldest = Math.max(block.acknowledged, block.durable)
    await device.readInto(bytes, n * BLOCK)
    const found = bytes.readDoubleLE(0)
    const isWhole = bytes.equals(content(found))
    const places = block.versions.flatMap((version, place) => (found === Math.max(0, version) ? [place] : []))
    if (!isWhole || places.length === 0) result.invented++
    else if (Math.max(...places) < oldest) result.lost++
    if (oldest > 0 || block.versions[0]! > 0) result.durable += SECTORS
    // What was found may itself be gone after the next power cut: down to what was durable, or to anything in between that
    // a sync had reached whose flush was never answered.
    const place = Math.max(block.durable, ...places)
    block.versions = block.versions.slice(block.durable, place + 1)
    block.durable = 0
    block.acknowledged = block.versions.length - 1
  }
}

const KEYS = [
  'durable',
  'lost',
  'invented',
  'cuts',
  'kills',
  'flushes',
  'writtenNow',
  'settlesBegun',
  'settled',
] as const

/** Many stories in turn. */
export async function powerCuts(
  first: number,
  stories: number,
  lives: number,
  faults: () => PowerCutFiles['faults'] = () => ({}),
): Promise<CutResult> {
  const total: CutResult = {
    durable: 0,
    lost: 0,
    invented: 0,
    cuts: 0,
    kills: 0,
    flushes: 0,
    writtenNow: 0,
    settlesBegun: 0,
    settled: 0,
  }
  for (let seed = first; seed < first + stories; seed++) {
    const result = await powerCutStory(seed, lives, faults()).catch(cause => {
      throw new Error(`story ${seed}: ${cause.message}`, { cause })
    })
    for (const key of KEYS) total[key] += result[key]
    if (result.lost + result.invented > 0 && Object.keys(faults()).length === 0)
      throw new Error(`story ${seed}: lost ${result.lost}, invented ${result.invented}`)
  }
  return total
}
