/** Backups by the command line from real parts into a real repository: what is read, what is stored, and that it comes back. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { copyFile, open, readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { run } from '../../src/cli/main.ts'
import { type Clock, systemClock } from '../../src/core/clock.ts'
import { hex } from '../../src/core/ids.ts'
import { systemRandom } from '../../src/core/random.ts'
import { type CommandLine, commandLine } from '../doubles/command-line.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { KiB, MiB, qemuMissing, startQemu } from '../doubles/qemu.ts'

const skip = qemuMissing()
const CHUNK = 64 * KiB
/** qemu-img allocates the first block of a raw file. */
const PROBED = CHUNK

interface Backup {
  readonly point: string
  readonly kind: string
  readonly base?: string
  readonly disks: readonly {
    readonly name: string
    readonly bytesRead: number
    readonly bytesChanged: number
    readonly bytesNew: number
    readonly bytesAudited: number
    readonly reason?: string
  }[]
}

async function newRepository(flags = ''): Promise<CommandLine> {
  const t = commandLine()
  t.environment.LIFEBOAT_REPO = t.at('repository')
  t.environment.LIFEBOAT_KEY_FILE = t.at('key')
  await lifeboat(t, `init ${flags}`)
  return t
}

async function lifeboat(t: CommandLine, words: string): Promise<unknown> {
  const { code, stderr, json } = await t.json(words)
  assert.equal(code, 0, `${words}: ${stderr}`)
  return json
}

const backup = async (t: CommandLine, words: string) => (await lifeboat(t, `backup ${words}`)) as Backup
const figures = (backup: Backup) =>
  backup.disks.map(({ name, bytesRead, bytesChanged, reason }) => ({ name, bytesRead, bytesChanged, reason }))

async function restored(t: CommandLine, disk: string): Promise<Buffer> {
  const output = t.at(`restored-${hex(systemRandom(4))}`)
  await lifeboat(t, `restore ${disk} --output ${output}`)
  return await readFile(output)
}

async function scribble(file: string, offset: number, bytes: Uint8Array): Promise<void> {
  await using handle = await open(file, 'r+')
  await handle.write(bytes, 0, bytes.length, offset)
}

async function bytesBelow(folder: string): Promise<number> {
  let bytes = 0
  for (const name of await readdir(folder, { recursive: true })) {
    const status = await stat(path.join(folder, name))
    if (status.isFile()) bytes += status.size
  }
  return bytes
}

async function sparseFile(file: string, size: number): Promise<void> {
  await using handle = await open(file, 'w')
  await handle.truncate(size)
}

test('a running guest: full, incremental, differential and --full on request; unallocated clusters and holes are never read', {
  skip,
}, async () => {
  await using qemu = await startQemu({
    disks: [
      { id: 'vda', format: 'qcow2', size: 64 * MiB },
      { id: 'vdb', format: 'raw', size: 32 * MiB },
    ],
    running: true,
    args: () => ['-device', 'virtio-net-pci,mac=52:54:00:ab:cd:ef', '-smp', '2'],
  })
  await using t = await newRepository()
  const source = `vm --qmp ${qemu.qmp} --fleecing-dir ${t.at('f')}`
  const holds = async (point: string) => {
    for (const disk of ['vda', 'vdb'])
      assert.ok((await restored(t, `vm@${point}/${disk}`)).equals(qemu.contents(disk)), `${disk} of ${point}`)
  }
  await qemu.write('vda', 1, 8 * MiB, MiB)
  await qemu.write('vdb', 2, 4 * MiB, 2 * CHUNK)

  const first = await backup(t, source)
  assert.equal(first.kind, 'full')
  assert.deepEqual(figures(first), [
    { name: 'vda', bytesRead: MiB, bytesChanged: MiB, reason: 'first-backup' },
    { name: 'vdb', bytesRead: PROBED + 2 * CHUNK, bytesChanged: 2 * CHUNK, reason: 'first-backup' },
  ])
  await holds(first.point)

  await qemu.write('vda', 3, 16 * MiB, CHUNK)
  const second = await backup(t, source)
  assert.deepEqual([second.kind, second.base], ['incremental', first.point])
  assert.deepEqual(figures(second), [
    { name: 'vda', bytesRead: CHUNK, bytesChanged: CHUNK, reason: undefined },
    { name: 'vdb', bytesRead: 0, bytesChanged: 0, reason: undefined },
  ])
  assert.ok(second.disks.every(({ bytesAudited }) => bytesAudited === CHUNK))
  await holds(second.point)

  await qemu.write('vda', 4, 20 * MiB, CHUNK)
  await qemu.write('vdb', 5, 4 * MiB, CHUNK)
  const differential = await backup(t, `${source} --differential ${first.point}`)
  assert.deepEqual([differential.kind, differential.base], ['differential', first.point])
  assert.deepEqual(figures(differential), [
    { name: 'vda', bytesRead: 2 * CHUNK, bytesChanged: 2 * CHUNK, reason: undefined },
    { name: 'vdb', bytesRead: CHUNK, bytesChanged: CHUNK, reason: undefined },
  ])
  await holds(differential.point)

  await qemu.write('vda', 6, 30 * MiB, CHUNK)
  const full = await backup(t, `${source} --full`)
  assert.equal(full.kind, 'full')
  assert.deepEqual(figures(full), [
    { name: 'vda', bytesRead: MiB + 3 * CHUNK, bytesChanged: CHUNK, reason: 'requested' },
    { name: 'vdb', bytesRead: PROBED + 2 * CHUNK, bytesChanged: 0, reason: 'requested' },
  ])
  assert.ok(
    full.disks.every(({ bytesNew }) => bytesNew <= CHUNK),
    'what is known is not stored again',
  )
  await holds(full.point)

  await qemu.write('vda', 7, 40 * MiB, CHUNK)
  const last = await backup(t, source)
  assert.deepEqual([last.kind, last.base, last.disks[0]?.bytesRead], ['incremental', full.point, CHUNK])
  await holds(last.point)

  const shown = JSON.stringify(await lifeboat(t, `show vm@${last.point}`))
  for (const known of ['52:54:00:ab:cd:ef', 'pc-i440fx', `"memoryBytes":${64 * MiB}`, '"cpus":2', '"kind":"bios"'])
    assert.ok(shown.includes(known), `the description holds ${known}: ${shown}`)
})

test("images: a scan's reads are counted, holes and unallocated clusters are never read", {
  skip,
}, async () => {
  await using t = await newRepository()
  const raw = t.at('disk.raw')
  const qcow2 = t.at('disk.qcow2')
  await sparseFile(raw, 64 * MiB + 512)
  await scribble(raw, 3 * MiB, patternBytes(4 * MiB, 1))
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', qcow2, '64M'])
  const into = (command: string) => execFileSync('qemu-io', ['-f', 'qcow2', '-c', command, qcow2], { stdio: 'ignore' })
  into('write -P 9 32M 2M')
  const source = `vm --image raw=${raw} --image q=${qcow2}`

  const first = await backup(t, source)
  assert.deepEqual(
    first.disks.map(({ bytesRead }) => bytesRead),
    [4 * MiB, 2 * MiB],
  )
  await scribble(raw, 5 * MiB, patternBytes(CHUNK, 2))
  into('write -P 8 32M 64k')
  into('discard 33M 64k')
  const second = await backup(t, source)
  assert.deepEqual(figures(second), [
    { name: 'raw', bytesRead: 4 * MiB + CHUNK, bytesChanged: CHUNK, reason: undefined },
    { name: 'q', bytesRead: CHUNK, bytesChanged: 2 * CHUNK, reason: undefined },
  ])
  assert.ok((await restored(t, 'vm@latest/raw')).equals(await readFile(raw)))
  execFileSync('qemu-img', ['convert', '-O', 'raw', qcow2, t.at('q.raw')])
  assert.ok((await restored(t, 'vm@latest/q')).equals(await readFile(t.at('q.raw'))))
})

test("another VM's contents are found through index/ objects and not stored again", async () => {
  await using t = await newRepository('--chunk-size 4KiB')
  const template = patternBytes(8 * MiB, 5)
  await sparseFile(t.at('template.raw'), 16 * MiB)
  await scribble(t.at('template.raw'), 0, template)
  await backup(t, `template --image vda=${t.at('template.raw')}`)
  await copyFile(t.at('template.raw'), t.at('clone.raw'))
  await scribble(t.at('clone.raw'), 2 * MiB, patternBytes(MiB, 6))
  const { disks } = await backup(t, `clone --image vda=${t.at('clone.raw')}`)
  assert.equal(disks[0]?.bytesChanged, 8 * MiB)
  const again = (disks[0]?.bytesNew ?? 0) - MiB
  assert.ok(again >= 0 && again < 0.02 * 8 * MiB, `${again} bytes were stored again`)
  assert.ok((await restored(t, 'clone@latest/vda')).equals(await readFile(t.at('clone.raw'))))
})

test('what two hosts stored at the same time is stored once more by nobody: a third host adds next to nothing', async () => {
  await using one = await newRepository('--chunk-size 4KiB')
  const { LIFEBOAT_REPO, LIFEBOAT_KEY_FILE } = one.environment
  await using two = commandLine({ LIFEBOAT_REPO, LIFEBOAT_KEY_FILE })
  await using three = commandLine({ LIFEBOAT_REPO, LIFEBOAT_KEY_FILE })
  const halves = [patternBytes(4 * MiB, 11), patternBytes(4 * MiB, 12)] as const
  for (const [t, content] of [
    [one, halves[0]],
    [two, halves[1]],
    [three, Buffer.concat(halves)],
  ] as const) {
    await sparseFile(t.at('disk.raw'), 0)
    await scribble(t.at('disk.raw'), 0, content)
  }
  await Promise.all([
    backup(one, `a --image vda=${one.at('disk.raw')}`),
    backup(two, `b --image vda=${two.at('disk.raw')}`),
  ])
  const before = await bytesBelow(one.at('repository', 'packs'))
  assert.ok(before > 8 * MiB, 'the content does not shrink')
  const { disks } = await backup(three, `c --image vda=${three.at('disk.raw')}`)
  const added = (await bytesBelow(one.at('repository', 'packs'))) - before
  assert.equal(disks[0]?.bytesChanged, 8 * MiB)
  assert.ok(added < 0.02 * 8 * MiB, `${added} bytes were added to the packs`)
  assert.ok((disks[0]?.bytesNew ?? 0) <= added)
  assert.ok((await restored(two, 'c@latest/vda')).equals(Buffer.concat(halves)))
})

test('--limit-rate bounds the bytes a second to the store', async () => {
  await using t = await newRepository()
  await sparseFile(t.at('disk.raw'), 0)
  await scribble(t.at('disk.raw'), 0, patternBytes(8 * MiB, 3))
  /** Short pauses are slept at once and added up; the long ones belong to leases. */
  const sleptMs = async (...words: string[]): Promise<number> => {
    let slept = 0
    const clock: Clock = {
      now: systemClock.now,
      monotonicMs: () => systemClock.monotonicMs() + slept,
      async sleep(ms, options) {
        if (ms > 60_000) return await systemClock.sleep(ms, options)
        slept += ms
        await systemClock.sleep(0, options)
      },
    }
    const silent = { write: () => true }
    const code = await run(['backup', ...words], {
      environment: t.environment,
      stdout: Object.assign(Object.create(process.stdout), silent),
      stderr: Object.assign(Object.create(process.stderr), silent),
      clock,
      random: systemRandom,
      signal: new AbortController().signal,
    })
    assert.equal(code, 0)
    return slept
  }
  const image = ['--image', `vda=${t.at('disk.raw')}`]
  assert.ok((await sleptMs('free', ...image)) < 1000)
  await scribble(t.at('disk.raw'), 0, patternBytes(8 * MiB, 4))
  assert.ok((await sleptMs('bounded', ...image, '--limit-rate', '1MiB')) > 5000)
})
