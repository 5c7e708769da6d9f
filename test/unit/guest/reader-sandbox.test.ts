/** What whoever takes over the parser of a guest's filesystems can do with it: compute and answer. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

const folder = mkdtempSync(join(tmpdir(), 'reader-sandbox-'))
after(() => rmSync(folder, { recursive: true }))
const caged = join(folder, 'caged')

const compiled = spawnSync(
  process.env.CXX ?? 'g++',
  ['-std=c++17', '-D_GNU_SOURCE', '-pthread', '-o', caged, 'test/doubles/caged.cc', 'native/guest/sandbox.cc'],
  { encoding: 'utf8' },
)
assert.equal(compiled.status, 0, compiled.stderr)

const run = (word: string) =>
  spawnSync(caged, [word], { encoding: 'utf8', env: { SECRET: 'x' }, stdio: ['ignore', 'pipe', 'pipe'] })

const FORBIDDEN = [
  ...[
    'open',
    'openat',
    'socket',
    'connect',
    'execve',
    'fork',
    'vfork',
    'thread',
    'kill',
    'kill-itself',
    'ptrace',
    'dup',
  ],
  ...['code', 'code-later', 'map-file', 'other-descriptor', 'ioctl', 'setuid', 'unlink', 'io-uring'],
  ...(process.arch === 'x64' ? ['x32'] : []),
]

for (const word of FORBIDDEN)
  test(`${word} ends the process`, () => {
    const { stdout, stderr, signal } = run(word)
    assert.deepEqual({ stdout, stderr, signal }, { stdout: 'closed\n', stderr: '', signal: 'SIGSYS' })
  })

test('it may compute, and have its memory', () => {
  const { stdout, status } = run('compute')
  assert.deepEqual({ stdout, status }, { stdout: 'closed\nsurvived\n', status: 0 })
})

test('memory has an end', () => {
  const { stdout } = run('allocate')
  assert.equal(stdout, 'closed\nrefused\nsurvived\n')
})

test('it has no privileges, no environment and an empty folder', t => {
  const { stdout, stderr } = run('place')
  t.diagnostic(stdout.trim())
  assert.match(stdout, /^uid [1-9]\d* folder \/ /, stderr)
  assert.match(stdout, / descriptors 3 environment 0$/m)
  if (process.getuid?.() === 0) assert.match(stdout, /uid 65534 folder \/ empty/)
})
