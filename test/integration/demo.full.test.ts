/** The two demonstrations of the README, as a newcomer runs them; the Debian one with its guest agent. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'

const ROOT = path.join(import.meta.dirname, '../..')
const MINUTE = 60_000

const leftovers = async () => (await readdir(tmpdir())).filter(name => name.startsWith('lifeboat-demo-')).sort()

for (const { name, words, consistency, minutes } of [
  { name: 'a small guest', words: [], consistency: 'crash', minutes: 12 },
  { name: 'a Debian guest with its agent', words: ['--debian'], consistency: 'filesystem', minutes: 40 },
])
  test(`npm run demo: ${name} is backed up while it runs, changed, backed up by its bitmaps, and booted from the repository`, {
    timeout: minutes * MINUTE,
  }, async () => {
    const before = await leftovers()
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [path.join(ROOT, 'scripts', 'run.mjs'), 'demo', ...words],
      { cwd: ROOT, timeout: minutes * MINUTE },
    )
    assert.match(stdout, /the older point runs: its files are the ones that the first guest had/)
    assert.match(stdout, /the newer point runs: its files are the ones that the first guest had/)
    assert.match(stdout, /a new server has taken it over; no read and no write was lost/)
    assert.match(stdout, new RegExp(`it is a new recovery point, ${consistency}-consistent: [0-9.]+ [KM]iB read`))
    assert.match(stdout, /it runs from local disks now, compared with what it had; its server is gone/)
    assert.match(stdout, /its files are the ones that it had written/)
    assert.match(stdout, /the restored data disk is the same, bit by bit/)
    assert.match(stdout, /one file came out of its data disk, as the guest left it/)
    const rows = stdout.split('\n').filter(line => /\b(full|incremental) +(crash|filesystem) /.test(line))
    assert.deepEqual(
      rows.map(row => /\b(full|incremental) +(crash|filesystem) /.exec(row)?.slice(1, 3)),
      [
        ['full', consistency],
        ['incremental', consistency],
      ],
    )
    assert.match(stdout, /Everything is as it was\.\s*$/)
    assert.deepEqual(await leftovers(), before, 'no folder stays behind')
  })
