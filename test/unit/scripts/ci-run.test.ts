/** .ci/run adds up what the steps counted, and never turns a failure of npm itself into success. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const folder = mkdtempSync(join(tmpdir(), 'lifeboat-ci-'))
after(() => rmSync(folder, { recursive: true }))
mkdirSync(join(folder, '.ci'))
mkdirSync(join(folder, 'programs'))
cpSync(fileURLToPath(new URL('../../../.ci/run', import.meta.url)), join(folder, '.ci/run'))

interface Step {
  readonly says: string
  readonly code: number
}

/** Runs .ci/run with an npm that says and does what each of its steps is given. */
function ci(steps: Readonly<Record<'test' | 'full' | 'check', Step>>): { line: string; code: number | null } {
  const branch = (words: string, { says, code }: Step): string => `'${words}') printf '${says}'; exit ${code} ;;`
  const cases = [branch('test', steps.test), branch('run test:full', steps.full), branch('run check', steps.check)]
  writeFileSync(join(folder, 'programs/npm'), `#!/bin/sh\ncase "$*" in ${cases.join(' ')} esac\nexit 99\n`, {
    mode: 0o755,
  })
  const env = { PATH: `${join(folder, 'programs')}:/usr/bin:/bin` }
  const { stdout, status } = spawnSync('bash', [join(folder, '.ci/run')], { env, encoding: 'utf8', input: '' })
  return { line: stdout.trimEnd().split('\n').at(-1) ?? '', code: status }
}

const passed = { says: 'one\\n3 passed, 0 failed\\n', code: 0 }
const clean = { says: 'ok\\n', code: 0 }

test('adds up the last lines of its steps', () => {
  assert.deepEqual(
    ci({ test: passed, full: { says: '9 passed, 9 failed\\n4 passed, 0 failed\\n', code: 0 }, check: clean }),
    {
      line: '7 passed, 0 failed',
      code: 0,
    },
  )
  assert.deepEqual(ci({ test: passed, full: { says: '4 passed, 2 failed\\n', code: 1 }, check: clean }), {
    line: '7 passed, 2 failed',
    code: 1,
  })
})

test('a step that fails without a count is a failure', () => {
  const broken = { says: 'npm ERR! no such thing\\n', code: 1 }
  assert.deepEqual(ci({ test: broken, full: broken, check: clean }), { line: '0 passed, 2 failed', code: 1 })
  assert.deepEqual(ci({ test: passed, full: passed, check: broken }), { line: '6 passed, 1 failed', code: 1 })
})

test('a step that counts no failure but ends with one is a failure', () => {
  const strict = { says: '3 passed, 0 failed, 1 skipped\\n', code: 1 }
  assert.deepEqual(ci({ test: strict, full: passed, check: clean }), { line: '6 passed, 1 failed, 1 skipped', code: 1 })
})

test('nothing that ran is a failure', () => {
  assert.deepEqual(ci({ test: clean, full: clean, check: clean }), { line: '0 passed, 1 failed', code: 1 })
})
