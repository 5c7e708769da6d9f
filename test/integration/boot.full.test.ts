/** A guest boots from its own boot sector through GRUB, with nothing below its disk but the repository in a directory. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { backupVm } from '../../src/backup/backup-vm.ts'
import { ChunkCache } from '../../src/cache/chunk-cache.ts'
import { systemClock } from '../../src/core/clock.ts'
import { systemRandom } from '../../src/core/random.ts'
import { imageHypervisor } from '../../src/hypervisor/images.ts'
import { qemuHypervisor } from '../../src/hypervisor/qemu/qemu-hypervisor.ts'
import { loadPipeline } from '../../src/native/native.ts'
import { bootPoint } from '../../src/recovery/boot.ts'
import { initRepository } from '../../src/repository/init.ts'
import { openRepository } from '../../src/repository/open.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'
import { metered } from '../../src/storage/metered.ts'
import { testExporter } from '../doubles/nbd-exporter.ts'
import { connectConsole } from '../guest/console.ts'
import { tinyImage } from '../guest/tiny-image.ts'
import { copyImage, tool } from '../guest/tool.ts'
import { startVm } from '../guest/vm.ts'

const folder = await mkdtemp(path.join(tmpdir(), 'lb-full-'))
after(() => rm(folder, { recursive: true, force: true }))
const common = { clock: systemClock, random: systemRandom }

/** What every real disk has and a boot does not touch: the tiny guest's own is little more than its kernel. */
const BALLAST = systemRandom(24 * 1024 * 1024)

async function withBallast(image: string, copy: string): Promise<void> {
  await copyImage(image, copy)
  await chmod(copy, 0o600)
  // GPT's table begins at sector 2; the guest's root is the second partition, and its first sector stands at byte 32.
  const root = Number((await readFile(copy)).readBigUInt64LE(2 * 512 + 128 + 32)) * 512
  const ballast = `${copy}.ballast`
  await writeFile(ballast, BALLAST)
  await tool('debugfs', '-w', '-R', `write ${ballast} /ballast`, `${copy}?offset=${root}`)
}

for (const firmware of ['bios', 'uefi'] as const)
  test(`a ${firmware} guest boots having fetched less than half of its disk, which never exists as a whole`, async () => {
    const image = await tinyImage({ firmware })
    const place = path.join(folder, firmware)
    await mkdir(path.join(place, 'repository'), { recursive: true })
    const { store, meter } = metered(filesystemStore(path.join(place, 'repository')))
    const credential = { kind: 'file', secret: systemRandom(32) } as const
    await initRepository({ store, credential, ...common })
    const repository = await openRepository({ store, credential, ...common, host: 'test', pipeline: loadPipeline() })
    const original = path.join(place, 'disk.raw')
    await withBallast(image.disk, original)
    const images = [{ name: 'vda', path: original, format: 'raw' }] as const
    // The one from its image while it is off; the other while it runs, so that the point knows its firmware and variables.
    await using vm =
      firmware === 'uefi' ? await startVm({ disks: [{ ...images[0], path: original }], firmware }) : undefined
    await vm?.waitForPrompt()
    const hypervisor = vm
      ? qemuHypervisor({ qmp: vm.qmp, ...common })
      : imageHypervisor({ vm: 'tiny', images, stateDir: path.join(place, 'scan'), ...common })
    const fleecingDir = path.join(place, 'fleecing')
    await backupVm({ vm: 'tiny', hypervisor, repository, ...common, kind: 'incremental', fleecingDir })
    await vm?.kill()
    const [point] = await repository.points({ vm: 'tiny' })
    assert.ok(point)
    const disk = await readFile(original)
    let nonZero = 0
    for (let at = 0; at < disk.length; at += 4096)
      if (disk.subarray(at, at + 4096).some(byte => byte !== 0)) nonZero += 4096

    const before = meter.figures().get.bytes
    const stateDir = path.join(place, 's')
    await using boot = await bootPoint({
      ...common,
      stateDir,
      runDir: path.join(place, 'r'),
      repository,
      point,
      session: 'full',
      exporter: testExporter,
      cache: new ChunkCache({ maxBytes: 256 * 1024 * 1024 }),
      memoryBytes: 256 * 1024 * 1024,
      extra: ['-no-reboot'],
    })
    using console = await connectConsole(boot.serial)
    await console.waitForPrompt(image.bootTimeoutMs * 2)
    const fetched = meter.figures().get.bytes - before
    const { bytesRead } = boot.figures()
    assert.ok(fetched < nonZero / 2, `${fetched} bytes fetched of ${nonZero} that are not zero`)
    assert.ok(bytesRead > 0)
    const sum = createHash('sha256').update(BALLAST).digest('hex')
    assert.match(await console.must('sha256sum /ballast'), new RegExp(`^${sum}`), 'what was not read at boot is there')
    const written = await Promise.all(
      (await readdir(path.join(stateDir, 'sessions/full'))).map(async name => {
        const { blocks } = await stat(path.join(stateDir, 'sessions/full', name))
        return blocks * 512
      }),
    )
    assert.ok(written.reduce((sum, bytes) => sum + bytes, 0) < nonZero / 2, 'no copy of the disk was made')
    await boot.stop()
    process.stdout.write(
      `# ${firmware}: first read after ${boot.secondsToFirstRead?.toFixed(2)} s, guest read ${bytesRead}, fetched ${fetched} of ${nonZero} non-zero bytes\n`,
    )
  })
