import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { stat } from 'node:fs/promises'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)
const script = fileURLToPath(new URL('../../../scripts/build-addon.mjs', import.meta.url))
const addon = new URL('../../../build/lifeboat.node', import.meta.url)

test('the addon is built once, and not again while nothing changes', async () => {
  await run(process.execPath, [script])
  const { mtimeMs } = await stat(addon)
  const { stdout } = await run(process.execPath, [script])
  assert.equal(stdout, 'build/lifeboat.node is up to date\n')
  assert.equal((await stat(addon)).mtimeMs, mtimeMs)
})

test('a missing compiler is said with the packages that bring it', async () => {
  const building = run(process.execPath, [script], { env: { ...process.env, CXX: '/nonexistent/g++' } })
  await assert.rejects(building, { code: 1, stderr: /g\+\+ is missing.*apt-get install g\+\+ libzstd-dev/ })
})

test('a missing zstd is said with the package that brings it', async () => {
  const building = run(process.execPath, [script], { env: { ...process.env, CXX: 'echo' } })
  await assert.rejects(building, { code: 1, stderr: /libzstd\.a is missing.*libzstd-dev/ })
})

test('zstd is in the addon and hidden, OpenSSL is of Node', async () => {
  const { stdout } = await run('nm', ['-D', fileURLToPath(addon)])
  assert.doesNotMatch(stdout, / [A-Z] ZSTD_/)
  assert.match(stdout, / U EVP_DecryptUpdate/)
})
