/**
 * Several hosts at one repository without a lock server, as real processes: writers that share content, readers, somebody
 * who forgets, collections one after the other, a writer paused past its lease and one that is killed. Afterwards
 * everything that was confirmed and not forgotten restores bit by bit, and one more collection leaves no garbage.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { KiB, MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { host } from '../doubles/host-process.ts'

const seed = process.env.SEED ?? 'harbour'
const ROUNDS = 6
const IMAGE = 6 * MiB

interface Written {
  readonly vm: string
  readonly digest: string
}

const digestOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
const pause = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

test(`hosts write, read, forget and collect at once (seed ${seed})`, { timeout: 900_000 }, async t => {
  const dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-hosts-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const key = path.join(dir, 'key')
  const environment = { LIFEBOAT_REPO: path.join(dir, 'repository'), LIFEBOAT_KEY_FILE: key }
  const hostOf = (name: string) => host(dir, name, environment)
  const admin = await hostOf('admin')
  assert.equal((await admin.run(['init'])).code, 0)

  const shared = seededRandom(`${seed}/shared`)(IMAGE / 2)
  const written = new Map<string, Written>()
  const forgotten = new Set<string>()
  const seen = { paused: 0, killed: 0, refused: [] as string[], restored: 0, collected: 0, freed: 0 }
  let writersLeft = 3

  async function write(name: string): Promise<void> {
    const machine = await hostOf(name)
    const random = seededRandom(`${seed}/${name}`)
    const file = path.join(dir, `${name}.raw`)
    const image = new Uint8Array(IMAGE)
    image.set(shared)
    image.set(random(IMAGE / 4), IMAGE / 2)
    for (let round = 0; round < ROUNDS; round++) {
      if (name === 'web1') image.set(random(IMAGE / 4), IMAGE / 2)
      for (let change = 0; change < 8; change++) image.set(random(4 * KiB), (random(1)[0]! * IMAGE) / 256)
      await writeFile(file, image)
      const digest = digestOf(image)
      // Until a collection has fenced it once.
      const isPaused = name === 'web1' && seen.refused.length === 0
      const words = ['--lease-expiry', '5s', 'backup', name, '--image', `vda=${file}`]
      const { child, ended } = machine.start(isPaused ? [...words, '--limit-rate', '500KiB', '--full'] : words)
      if (isPaused) {
        // Stopped in mid upload, for longer than anybody believes in its lease.
        await pause(3_000 + random(1)[0]! * 8)
        if (child.kill('SIGSTOP')) seen.paused++
        await pause(20_000)
        child.kill('SIGCONT')
      }
      if (name === 'web2' && round % 3 === 2) {
        await pause(250 + random(1)[0]! * 3)
        if (child.kill('SIGKILL')) seen.killed++
      }
      const { code, json, error, stderr } = await ended
      if (code === 0) written.set(String(json.point), { vm: name, digest })
      else if (code !== null) {
        assert.ok(['lease-lost', 'not-committed'].includes(error), `${name}: ${stderr}`)
        seen.refused.push(`${name}: ${error}`)
      }
    }
    writersLeft--
  }

  async function forget(): Promise<void> {
    const machine = await hostOf('keeper')
    while (writersLeft > 0) {
      await pause(1_500)
      const victims = [...written].filter(([id]) => !forgotten.has(id)).slice(0, -4)
      const [id, { vm }] = victims[0] ?? ['', { vm: '' }]
      if (id === '') continue
      forgotten.add(id)
      const { code, stderr } = await machine.run(['forget', `${vm}@${id}`])
      // Somebody reads it, or builds upon it.
      if (code !== 0) {
        assert.match(stderr, /pinned|read|base|newest/i)
        forgotten.delete(id)
      }
    }
  }

  async function read(name: string): Promise<void> {
    const machine = await hostOf(name)
    const random = seededRandom(`${seed}/${name}`)
    while (writersLeft > 0) {
      const points = [...written]
      const [id, expected] = points[Math.floor((random(1)[0]! / 256) * points.length)] ?? []
      if (id === undefined || expected === undefined) {
        await pause(500)
        continue
      }
      const output = path.join(dir, `${name}.out`)
      const { code, error, stderr } = await machine.run(['restore', `${expected.vm}@${id}/vda`, '--output', output])
      if (code === 0) {
        assert.equal(digestOf(await readFile(output)), expected.digest, `point ${id}`)
        seen.restored++
      } else assert.ok(forgotten.has(id) && ['point-forgotten', 'no-such-point'].includes(error), stderr)
      await rm(output, { force: true })
    }
  }

  async function collect(name: string): Promise<void> {
    const machine = await hostOf(name)
    while (writersLeft > 0) {
      const { code, json, stderr } = await machine.run(['gc', '--grace', '0s'])
      assert.equal(code, 0, stderr)
      seen.collected++
      seen.freed += Number(json.bytesFreed)
    }
  }

  await Promise.all([
    ...['web1', 'web2', 'db'].map(write),
    forget(),
    ...['reader1', 'reader2'].map(read),
    ...['collector1', 'collector2'].map(collect),
  ])

  const verified = await admin.run(['verify', '--all'])
  assert.equal(verified.code, 0, JSON.stringify(verified.json))
  for (const [id, { vm, digest }] of written) {
    if (forgotten.has(id)) continue
    const output = path.join(dir, 'final.raw')
    const { code, stderr } = await admin.run(['restore', `${vm}@${id}/vda`, '--output', output])
    assert.equal(code, 0, stderr)
    assert.equal(digestOf(await readFile(output)), digest, `point ${id} of ${vm}`)
    await rm(output)
  }
  assert.equal((await admin.run(['gc', '--grace', '0s'])).code, 0)
  const quiet = await admin.run(['gc', '--grace', '0s'])
  assert.equal(quiet.json.bytesFreed, 0, 'a second collection finds nothing')
  t.diagnostic(JSON.stringify({ ...seen, points: written.size, forgotten: forgotten.size }))
  assert.ok(seen.refused.length > 0, 'a paused writer was fenced')
  assert.ok(seen.paused > 0 && seen.killed > 0, 'a writer was paused and one was killed')
  assert.ok(seen.restored > 0 && seen.collected > 1 && forgotten.size > 0 && seen.freed > 0)
})
