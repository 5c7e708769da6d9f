/** Who captures a machine: one at a time, and a dead one's lock is no obstacle. */
import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { systemRandom } from '../../../src/core/random.ts'
import { lockRun, removeDead, runnerText, thisRunner } from '../../../src/hypervisor/run-lock.ts'
import { smallDisk } from '../../doubles/command-line.ts'

const dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-lock-'))
after(() => rm(dir, { recursive: true, force: true }))
const { host } = await thisRunner()
// The process id is alive, the start time is not its.
const dead = runnerText({ host, pid: process.pid, start: 1 })

test("a living owner's lock is respected and named; a dead one's and a torn one are taken over", async () => {
  const file = path.join(dir, 'a.lock')
  for (const before of [undefined, dead, 'torn', '']) {
    if (before !== undefined) await writeFile(file, before)
    {
      await using _held = await lockRun(file, 'the machine', systemRandom)
      await assert.rejects(lockRun(file, 'the machine', systemRandom), {
        code: 'vm-busy',
        message: new RegExp(`the machine.*${process.pid}`),
      })
    }
    assert.deepEqual(await readdir(dir), [], 'nothing stays behind')
  }
})

test('who takes a dead lock away too late does not take the living one that has followed it', async () => {
  const file = path.join(dir, 'b.lock')
  const own = runnerText(await thisRunner())
  await writeFile(file, own)
  await removeDead(file)
  assert.equal(await readFile(file, 'utf8'), own)
  await writeFile(file, dead)
  await removeDead(file)
  assert.deepEqual(await readdir(dir), [])
})

test('of many that find a dead lock at once, one gets it', async () => {
  for (let round = 0; round < 10; round++) {
    const file = path.join(dir, `c${round}.lock`)
    await writeFile(file, dead)
    const outcomes = await Promise.allSettled(Array.from({ length: 20 }, () => lockRun(file, 'it', systemRandom)))
    const winners = outcomes.filter(({ status }) => status === 'fulfilled')
    assert.equal(winners.length, 1)
    for (const outcome of outcomes) if (outcome.status === 'fulfilled') await outcome.value[Symbol.asyncDispose]()
    assert.deepEqual(await readdir(dir), [])
  }
})

test('a lock that a full disk refuses leaves nothing behind', async t => {
  const full = await mkdtemp(path.join(tmpdir(), 'lifeboat-lock-full-'))
  const disk = smallDisk(full, 4096)
  if (!disk) return t.skip('mounting a tmpfs takes root')
  try {
    await writeFile(path.join(full, 'filler'), new Uint8Array(4096))
    await assert.rejects(lockRun(path.join(full, 'a.lock'), 'the machine', systemRandom), { code: 'ENOSPC' })
    assert.deepEqual(await readdir(full), ['filler'])
  } finally {
    await disk[Symbol.asyncDispose]()
    await rm(full, { recursive: true, force: true })
  }
})
