/** R14: an overlay on a filesystem of 16 MiB that runs full, and gets space again. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { isLifeboatError } from '../../src/core/errors.ts'
import { MiB } from '../../src/core/limits.ts'
import { OverlayExport } from '../doubles/overlay-export.ts'

const run = promisify(execFile)
const BLOCK = 4096
const needsRoot = process.getuid?.() === 0 ? false : 'mounting a tmpfs takes root'

test('a full disk is ENOSPC to the client, what was acknowledged stays, and it goes on when there is space', {
  skip: needsRoot,
}, async t => {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-full-'))
  const mounted = join(folder, 'small')
  await mkdir(mounted)
  await run('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', mounted])
  try {
    const image = join(mounted, 'disk.raw')
    await writeFile(image, '')
    await truncate(image, 64 * MiB)
    const ballast = join(mounted, 'ballast')
    await writeFile(ballast, Buffer.alloc(3 * MiB))
    const socket = join(folder, 'disk.sock')
    let served = await OverlayExport.start(image, socket)
    let client = await served.connect()
    const acknowledged = new Map<number, number>()
    let refused = 0
    for (let n = 0; n < 64 * 256 && refused < 20; n++) {
      const block = (n * 7919) % (64 * 256)
      try {
        await client.write(Buffer.alloc(BLOCK, 1 + (n % 255)), block * BLOCK, { fua: n % 97 === 0 })
        acknowledged.set(block, 1 + (n % 255))
      } catch (error) {
        assert.ok(isLifeboatError(error, 'nbd-io') && error.details.errno === 28, String(error))
        refused++
      }
    }
    const compare = async () => {
      const bytes = Buffer.alloc(BLOCK)
      for (const [block, value] of acknowledged) {
        await client.readInto(bytes, block * BLOCK)
        assert.ok(bytes.equals(Buffer.alloc(BLOCK, value)), `block ${block}`)
      }
    }
    assert.equal(refused, 20, 'the disk never ran full')
    await compare()
    await rm(ballast)
    let after = 0
    for (let n = 0; n < 200; n++) {
      await client.write(Buffer.alloc(BLOCK, 77), n * BLOCK)
      acknowledged.set(n, 77)
      after++
    }
    await client.flush()
    await compare()
    await client[Symbol.asyncDispose]()
    await served.end('SIGKILL')
    served = await OverlayExport.start(image, socket)
    client = await served.connect()
    await compare()
    t.diagnostic(
      `${acknowledged.size} blocks acknowledged, ${refused} refused with ENOSPC, ${after} written after space had returned, all read back after a kill`,
    )
    await client[Symbol.asyncDispose]()
    await served.end('SIGTERM')
  } finally {
    await run('umount', [mounted])
    await rm(folder, { recursive: true, force: true })
  }
})
