/** R4 with real processes: four connections write, flush and force, the server is killed; everything acknowledged is there. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import type { NbdClient } from '../../src/nbd/client.ts'
import { OverlayExport } from '../doubles/overlay-export.ts'
import { type Draw, drawing } from '../doubles/power-cut-inode.ts'

const BLOCK = 4096
const BLOCKS = 8192
const ROUNDS = Number(process.env.ROUNDS ?? 3)
const SEED = Number(process.env.SEED ?? 1)

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-overlay-'))
after(() => rm(folder, { recursive: true, force: true }))
const [image, socket] = [join(folder, 'disk.raw'), join(folder, 'disk.sock')]

/** Of a block: what was acknowledged last, and what has been sent since. */
interface Written {
  acknowledged: number
  sent: number
}

const content = (version: number) => {
  const bytes = Buffer.alloc(BLOCK)
  for (let at = 0; at < BLOCK; at += 8) bytes.writeDoubleLE(version, at)
  return bytes
}

async function writer(client: NbdClient, connection: number, blocks: Written[], draw: Draw, next: () => number) {
  const one = async (): Promise<void> => {
    for (;;) {
      const n = connection + 4 * Math.floor(draw() * (BLOCKS / 4))
      const block = blocks[n]!
      if (block.sent !== block.acknowledged) continue
      block.sent = next()
      const version = block.sent
      await client.write(content(version), n * BLOCK, { fua: draw() < 0.02 })
      block.acknowledged = version
      if (draw() < 0.01) await client.flush()
    }
  }
  await Promise.allSettled(Array.from({ length: 8 }, one))
}

test('kill -9 under four writers loses nothing that was acknowledged', async t => {
  await writeFile(image, '')
  await truncate(image, BLOCKS * BLOCK)
  const draw = drawing(SEED)
  const blocks: Written[] = Array.from({ length: BLOCKS }, () => ({ acknowledged: 0, sent: 0 }))
  let version = 0
  let [sectors, lost, invented, slowest] = [0, 0, 0, 0]
  for (let round = 0; round < ROUNDS; round++) {
    const started = systemClock.monotonicMs()
    const served = await OverlayExport.start(image, socket)
    slowest = Math.max(slowest, systemClock.monotonicMs() - started)
    const clients = await Promise.all(Array.from({ length: 4 }, () => served.connect()))
    const writing = clients.map((client, n) => writer(client, n, blocks, draw, () => ++version))
    await systemClock.sleep(150 + draw() * 500)
    await served.end('SIGKILL')
    await Promise.all(writing)
    await Promise.allSettled(clients.map(client => client[Symbol.asyncDispose]()))

    await using again = await OverlayExport.start(image, socket)
    assert.doesNotMatch(again.stderr, /lost/)
    await using client = await again.connect()
    const bytes = Buffer.alloc(BLOCKS * BLOCK)
    for (let at = 0; at < bytes.length; at += 1 << 20) await client.readInto(bytes.subarray(at, at + (1 << 20)), at)
    for (const [n, block] of blocks.entries()) {
      const found = bytes.subarray(n * BLOCK, (n + 1) * BLOCK)
      const what = found.readDoubleLE(0)
      if (!found.equals(content(what)) || (what !== block.acknowledged && what !== block.sent)) {
        if (what < block.acknowledged && found.equals(content(what))) lost++
        else invented++
      }
      if (block.acknowledged > 0) sectors += BLOCK / 512
      block.acknowledged = block.sent = what
    }
  }
  t.diagnostic(
    `seed ${SEED}: ${ROUNDS} kills, ${version} writes, ${sectors} acknowledged sectors, lost ${lost}, invented ${invented}; slowest start ${slowest} ms`,
  )
  assert.ok(version > 100)
  assert.deepEqual({ lost, invented }, { lost: 0, invented: 0 })
})

test('a second process is told that the overlay is taken', async () => {
  await writeFile(image, '')
  await truncate(image, BLOCKS * BLOCK)
  await using _served = await OverlayExport.start(image, socket)
  await assert.rejects(OverlayExport.start(image, `${socket}2`), /another process has this overlay open/)
})
