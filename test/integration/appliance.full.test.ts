/** The appliance as a machine: what it finds on several disks, and what becomes of it when it is killed, hangs, or has no memory left. */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isLifeboatError } from '../../src/core/errors.ts'
import type { FileTree, TreeNode } from '../../src/files/file-tree.ts'
import { openDisks } from '../doubles/guest-matrix.ts'
import { ownAppliance } from '../doubles/own-appliance.ts'
import { guestDisks } from '../guest/filesystem-images.ts'
import { startOwned, startTimeOf } from '../guest/process-record.ts'
import { contentsOf, referenceTree } from '../guest/reference-tree.ts'

const MINUTE = 60_000
/** Of the client's first request. */
const FIRST_TAG = 1
const temporary = mkdtempSync(join(tmpdir(), 'appliance-test-'))
after(() => rmSync(temporary, { recursive: true, force: true }))

const layouts = await guestDisks()
const disksOf = (...names: readonly string[]) =>
  openDisks(layouts.filter(({ name }) => names.includes(name)).flatMap(({ disks }) => disks))

test('an appliance that is killed while it is read costs the call, and the next call has another', {
  timeout: 5 * MINUTE,
}, async () => {
  const pids: (number | undefined)[] = []
  await using files = await disksOf('gpt', 'lvm')
  using appliance = ownAppliance({ temporary, onStart: pid => pids.push(pid) })
  await using guests = await appliance.open(files.disks)
  const volumes = await guests.volumes()
  const readable = volumes.filter(({ state }) => state === 'readable').map(({ name, disk }) => `${name} on ${disk}`)
  assert.deepEqual(
    readable,
    ['gpt-p1 on gpt', 'gpt-p2 on gpt', 'gpt-p7 on gpt', 'big-vg-root on undefined', 'big-vg-striped on undefined'].sort(
      byPlaceIn(readable),
    ),
  )
  await sameAsMeant(await guests.open('big-vg-striped'))
  assert.deepEqual(privilegesOf(pids[0]), {
    user: process.getuid?.() === 0 ? 'of its own' : 'ours',
    capabilities: 0n,
    sandboxed: true,
  })

  const reading = sameAsMeant(await guests.open('gpt-p2'))
  process.kill(pids[0] ?? 0, 'SIGKILL')
  const failure = await reading.then(
    () => 'the read was faster',
    error => (isLifeboatError(error) ? error.code : String(error)),
  )
  console.log(`killed QEMU ${pids[0]} in a read: ${failure}`)
  await assert.rejects(async () => sameAsMeant(await guests.open('no-such-volume')), /no-such-volume|killed/)
  await sameAsMeant(await guests.open('gpt-p2'))
  assert.equal(pids.length, 2)
  assert.notEqual(pids[0], pids[1])
})

test('an appliance that hangs is killed when its time is over', { timeout: 5 * MINUTE }, async () => {
  const pids: (number | undefined)[] = []
  await using files = await disksOf('ext4')
  using appliance = ownAppliance({ temporary, requestMs: 5_000, onStart: pid => pids.push(pid) })
  await using guests = await appliance.open(files.disks)
  const tree = await guests.open('ext4-whole')
  process.kill(pids[0] ?? 0, 'SIGSTOP')
  const reading = sameAsMeant(tree)
  await assert.rejects(reading, error => isLifeboatError(error, 'guest-lost'))
  console.log(`stopped QEMU ${pids[0]}; a read of it failed`)
  await untilGone(pids[0])
  await sameAsMeant(await guests.open('ext4-whole'))
  assert.equal(pids.length, 2)
})

test('an appliance without memory ends, and says so', { timeout: 5 * MINUTE }, async () => {
  // An agent that greets, and then takes all memory that it gets.
  const agent = join(temporary, 'greedy')
  const greeting = '{"version":1,"server":"agent","built":"greedy"}'
  const octal = (bytes: Buffer) => [...bytes].map(byte => `\\${byte.toString(8).padStart(3, '0')}`).join('')
  const reply = Buffer.alloc(14)
  reply.writeUInt32LE(10 + greeting.length, 0)
  reply.writeUInt32LE(FIRST_TAG, 4)
  reply.writeUInt32LE(greeting.length, 10)
  writeFileSync(
    agent,
    `#!/bin/sh
exec 3<> "$2"
dd bs=1 count=13 <&3 > /dev/null 2>&1
printf '${octal(reply)}%s' '${greeting}' >&3
exec tail /dev/zero
`,
  )
  await using files = await disksOf('ext4')
  using appliance = ownAppliance({ temporary, agent })
  await using guests = await appliance.open(files.disks)
  const failure = await guests.volumes().then(
    () => undefined,
    error => error,
  )
  console.log(`an agent that takes all memory: ${failure?.message}`)
  assert.ok(isLifeboatError(failure, 'guest-lost'))
  assert.match(failure.message, /out of memory/)
  assert.match(failure.details.hint ?? '', /another appliance/)
})

test('when our process is killed, QEMU ends with it, and the next one cleans up', { timeout: 5 * MINUTE }, async () => {
  const program = fileURLToPath(new URL('../doubles/appliance-child.ts', import.meta.url))
  const { child, output, log, ended } = startOwned(process.execPath, [program, temporary])
  while (!output().includes('\n')) {
    await setTimeout(100)
    assert.equal(child.exitCode, null, log())
  }
  const qemu = Number(output().trim().split('\n').at(-1))
  assert.notEqual(startTimeOf(qemu), '')
  child.kill('SIGKILL')
  await ended
  await untilGone(qemu)
  const left = readdirSync(temporary).filter(name => name.startsWith(`lifeboat-appliance-${child.pid}`))
  console.log(`killed process ${child.pid}: its QEMU ${qemu} ended; it left ${left.join(' ') || 'nothing'}`)
  assert.equal(left.length, 1)
  assert.ok(!existsSync(join(temporary, left[0] ?? '', 'root')))
  await using files = await disksOf('ext4')
  using appliance = ownAppliance({ temporary })
  const guests = await appliance.open(files.disks)
  assert.ok(!existsSync(join(temporary, left[0] ?? '')))
  await guests[Symbol.asyncDispose]()
  assert.deepEqual(foldersIn(temporary), [])
})

/** Reads a file of five megabytes at the root of a volume. */
async function sameAsMeant(tree: FileTree): Promise<void> {
  const truth = referenceTree().find(({ path }) => path === 'random-5m.bin')
  const node: TreeNode | undefined = await tree.root.lookup('random-5m.bin')
  assert.ok(truth && node?.kind === 'file')
  await using reader = await node.open()
  const bytes = Buffer.alloc(reader.size)
  await reader.readInto(bytes, 0)
  assert.ok(bytes.equals(contentsOf(truth)))
}

const byPlaceIn = (list: readonly string[]) => (a: string, b: string) => list.indexOf(a) - list.indexOf(b)

function privilegesOf(pid: number | undefined) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const field = (name: string) => new RegExp(`^${name}:\\s+(\\S+)`, 'm').exec(status)?.[1] ?? ''
  return {
    user: Number(field('Uid')) === process.getuid?.() ? 'ours' : 'of its own',
    capabilities: BigInt(`0x${field('CapEff')}`),
    sandboxed: field('Seccomp') === '2' && field('NoNewPrivs') === '1',
  }
}

const foldersIn = (place: string) => readdirSync(place).filter(name => name.startsWith('lifeboat-appliance-'))

/** The test's own limit ends it where it never goes. */
async function untilGone(pid: number | undefined): Promise<void> {
  while (startTimeOf(pid ?? 0) !== '') await setTimeout(100)
}
