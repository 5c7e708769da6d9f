/** A guest whose overlay runs out of space: paused by the watch, or stopped by QEMU, it goes on and has lost nothing. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, statfs, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { ChunkCache } from '../../src/cache/chunk-cache.ts'
import { bootPoint, type RunningBoot } from '../../src/recovery/boot.ts'
import { smallDisk } from '../doubles/command-line.ts'
import { testExporter } from '../doubles/nbd-exporter.ts'
import { placeIn } from '../doubles/session-place.ts'
import { tinyPoint } from '../doubles/tiny-point.ts'
import { connectConsole, type GuestConsole } from '../guest/console.ts'

const MiB = 1 << 20
const skip = process.getuid?.() !== 0 && 'a small disk of its own needs root'

const statusOf = async ({ live }: RunningBoot): Promise<unknown> => {
  const answer = await live.qmp?.execute('query-status')
  return typeof answer === 'object' && answer !== null && 'status' in answer ? answer.status : undefined
}

/** Eight MiB, slower than the watch looks. While the guest stands the answer waits. */
const write = (guest: GuestConsole, file: string) =>
  guest.must(
    `cd /var; for i in $(seq 32); do dd if=/dev/urandom bs=64k count=4 2>/dev/null >> ${file}; sync; sleep 0.3; done; sha256sum ${file} > ${file}.sum; sync`,
    { timeoutMs: 240_000 },
  )

const check = (guest: GuestConsole) =>
  guest.must(
    "echo 3 > /proc/sys/vm/drop_caches; cd /var; cat *.sum | sha256sum -c -s && (dmesg | grep -ci 'i/o error' || true)",
  )

test('a guest without space for its writes is paused and goes on; so does one that QEMU has stopped on a full disk', {
  skip,
}, async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'lb-space-'))
  const disk = smallDisk(folder, 96 * MiB)
  assert.ok(disk)
  try {
    const { image, fixture, point, machine } = await tinyPoint()
    const told: string[] = []
    const boot = (more: object) =>
      bootPoint({
        ...placeIn(folder),
        repository: fixture.repository,
        point,
        session: 'one',
        exporter: testExporter,
        cache: new ChunkCache({ maxBytes: 64 * MiB }),
        tell: message => told.push(message),
        ...more,
      })
    const filler = path.join(folder, 'filler')
    {
      await using running = await boot({ ...machine, reserveBytes: 16 * MiB })
      using guest = await connectConsole(running.serial)
      await guest.waitForPrompt(image.bootTimeoutMs * 2)
      const { bavail, bsize } = await statfs(folder)
      // Half of what the guest is about to write goes in.
      await writeFile(filler, Buffer.alloc(bavail * bsize - 20 * MiB))
      let done = false
      const written = write(guest, 'one').finally(() => {
        done = true
      })
      while ((await statusOf(running)) !== 'paused') {
        assert.ok(!done, 'the space never ran out')
        await sleep(100)
      }
      process.stdout.write(`# ${told.join('; ')}\n`)
      assert.equal(running.live.state().pausedFor, 'space')
      await sleep(3000)
      assert.equal(await statusOf(running), 'paused')
      await rm(filler)
      await written
      assert.equal((await check(guest)).trim(), '0')
      assert.match(told.join('\n'), /the guest is paused.*\n.*goes on/)
    }
    told.length = 0
    // No machine is named: that of the first start is taken.
    await using running = await boot({ resume: true, reserveBytes: 0 })
    using guest = await connectConsole(running.serial)
    await guest.waitForPrompt(image.bootTimeoutMs * 2)
    let free = 0
    // All of it, but for what a few more clusters of the overlay take.
    for (let size = 90 * MiB; free === 0 && size > 0; size -= MiB)
      free = await writeFile(filler, Buffer.alloc(size)).then(
        () => size,
        () => 0,
      )
    let done = false
    // Blocks that the overlay has not seen before.
    const written = write(guest, 'two').finally(() => {
      done = true
    })
    while (!told.some(message => /I\/O error/.test(message))) {
      assert.ok(!done, 'the disk never filled')
      await sleep(100)
    }
    process.stdout.write(`# filler of ${free / MiB} MiB: ${told.join('; ')}\n`)
    await sleep(2000)
    await rm(filler)
    await written
    assert.equal((await check(guest)).trim(), '0')
  } finally {
    await disk[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  }
})
