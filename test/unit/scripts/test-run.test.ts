/** The runner of the tests must not take silence for success. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const RUNNER = fileURLToPath(new URL('../../../scripts/test.ts', import.meta.url))
const HEAD = `import { test } from 'node:test'\n`
const folder = mkdtempSync(join(tmpdir(), 'lifeboat-test-run-'))
after(() => rmSync(folder, { recursive: true }))

function runTests(
  files: Readonly<Record<string, string>>,
  { kind = 'ordinary', ci = true } = {},
): { line: string; code: number | null } {
  const tests = join(folder, 'test')
  rmSync(tests, { recursive: true, force: true })
  mkdirSync(tests)
  for (const [name, text] of Object.entries(files)) writeFileSync(join(tests, name), text)
  // NODE_TEST_CONTEXT would make the inner run think that it is a part of this one.
  const env = {
    ...process.env,
    NODE_TEST_CONTEXT: undefined,
    CI: ci ? 'true' : undefined,
    LIFEBOAT_TEST_CACHE: join(folder, 'cache'),
  }
  const { stdout, status } = spawnSync(process.execPath, [RUNNER, kind], { cwd: folder, env, encoding: 'utf8' })
  return { line: stdout.trimEnd().split('\n').at(-1) ?? '', code: status }
}

test('counts what passed and failed, subtests too', () => {
  const passing = `${HEAD}test('a', async t => { await t.test('b', () => {}) })`
  assert.deepEqual(runTests({ 'a.test.ts': passing }), { line: '2 passed, 0 failed', code: 0 })
  const failing = `${HEAD}test('a', () => {})\ntest('b', () => { throw new Error('no') })`
  assert.deepEqual(runTests({ 'a.test.ts': failing }), { line: '1 passed, 1 failed', code: 1 })
})

test('a file that crashes, is killed, exits early or holds no test has failed', () => {
  for (const text of [
    `throw new Error('at import')`,
    `${HEAD}test('a', () => { process.kill(process.pid, 'SIGKILL') })`,
    `${HEAD}test('a', () => {})\ntest('b', () => { process.exit(0) })`,
    'export {}',
  ])
    assert.deepEqual(runTests({ 'a.test.ts': text }), { line: '0 passed, 1 failed', code: 1 }, text)
})

test('in CI a skipped test, or none at all, is a failure', () => {
  const skipping = `${HEAD}test('a', () => {})\ntest('b', { skip: 'no tool' }, () => {})`
  assert.deepEqual(runTests({ 'a.test.ts': skipping }), { line: '1 passed, 0 failed, 1 skipped', code: 1 })
  assert.deepEqual(runTests({ 'a.test.ts': skipping }, { ci: false }), {
    line: '1 passed, 0 failed, 1 skipped',
    code: 0,
  })
  assert.deepEqual(runTests({}), { line: '0 passed, 0 failed', code: 1 })
})

test('each kind runs its own files', () => {
  const one = `${HEAD}test('a', () => {})`
  const files = {
    'a.test.ts': one,
    'b.full.test.ts': `${one}\ntest('c', () => {})`,
    'c.soak.test.ts': `${one}\ntest('c', () => {})\ntest('d', () => {})`,
  }
  assert.equal(runTests(files).line, '1 passed, 0 failed')
  assert.equal(runTests(files, { kind: 'full' }).line, '2 passed, 0 failed')
  assert.equal(runTests(files, { kind: 'soak' }).line, '3 passed, 0 failed')
})
