/** The set-up repairs what an interrupted one left, and does nothing when all is there. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const setup = (name: string): string => fileURLToPath(new URL(`../../../scripts/setup/${name}`, import.meta.url))
let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'lifeboat-setup-'))
  put('package-lock.json', '{"lockfileVersion": 3}')
})
afterEach(() => rmSync(root, { recursive: true }))

function put(name: string, text: string, mode = 0o644): void {
  const path = join(root, name)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
  chmodSync(path, mode)
}

/** Runs one line of JavaScript that has the module's exports as `it`, with our small programs first in PATH. */
function call(
  module: string,
  line: string,
  path = `${join(root, 'programs')}:/usr/bin:/bin`,
): { output: string; code: number | null } {
  const text = `const it = await import(${JSON.stringify(setup(module))}); const root = ${JSON.stringify(root)}; ${line}`
  const env = { PATH: path, HOME: root }
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', text], {
    env,
    encoding: 'utf8',
  })
  return { output: stdout + stderr, code: status }
}

const NODE = '#!/bin/sh\necho v24.0.0\n'
/** Stands for npm: notes its arguments and puts a Node in place. */
const npm = (after = ''): string => `#!/bin/sh
echo "$@" >> '${root}/npm-calls'
mkdir -p '${root}/node_modules/node/bin'
printf '#!/bin/sh\\necho v24.0.0\\n' > '${root}/node_modules/node/bin/node'
chmod +x '${root}/node_modules/node/bin/node'
${after}
`
/** Of `npm ci`; what runs install scripts afterwards, for the two packages that need theirs, is no installation. */
const npmCalls = (): number =>
  existsSync(join(root, 'npm-calls'))
    ? readFileSync(join(root, 'npm-calls'), 'utf8')
        .split('\n')
        .filter(line => line.startsWith('ci ')).length
    : 0
const install = 'await it.installNpmPackages(root)'

test('npm packages are installed once, and again when the lockfile has changed', () => {
  put('programs/npm', npm(), 0o755)
  assert.equal(call('npm-packages.mjs', install).code, 0)
  assert.equal(call('npm-packages.mjs', install).code, 0)
  assert.equal(npmCalls(), 1)
  put('package-lock.json', '{"lockfileVersion": 3, "packages": {}}')
  assert.equal(call('npm-packages.mjs', install).code, 0)
  assert.equal(npmCalls(), 2)
  const scripts = readFileSync(join(root, 'npm-calls'), 'utf8')
    .split('\n')
    .filter(line => line.startsWith('rebuild '))
  assert.deepEqual(new Set(scripts), new Set(['rebuild node xxhash-addon --ignore-scripts=false']))
})

test('an install that was killed counts as none, though it left a stamp of an earlier one', () => {
  put('node_modules/node/bin/node', NODE, 0o755)
  put('node_modules/.lifeboat-setup', createHash('sha256').update('another lockfile').digest('hex'))
  put('programs/npm', npm('kill -9 $PPID; sleep 1'), 0o755)
  call('npm-packages.mjs', install)
  assert.ok(!existsSync(join(root, 'node_modules/.lifeboat-setup')), 'the stamp goes before the install starts')
  put('programs/npm', npm(), 0o755)
  assert.equal(call('npm-packages.mjs', install).code, 0)
  assert.equal(call('npm-packages.mjs', 'console.log(it.npmPackagesAreCurrent(root))').output.trim(), 'true')
})

test('an npm that fails is quoted, and says what to do', () => {
  put('programs/npm', '#!/bin/sh\necho "npm ERR! network" >&2\nexit 1\n', 0o755)
  const { output, code } = call('npm-packages.mjs', install)
  assert.notEqual(code, 0)
  assert.match(output, /npm ERR! network/)
  assert.match(output, /start again/)
  assert.ok(!existsSync(join(root, 'node_modules/.lifeboat-setup')))
})

test('missing Debian packages are named with the command that installs them, when there is no root', () => {
  put('programs/apt-get', '#!/bin/sh\nexit 0\n', 0o755)
  put('programs/sudo', '#!/bin/sh\nexit 1\n', 0o755)
  put('programs/dpkg-query', '#!/bin/sh\nexit 1\n', 0o755)
  const asPlainUser = `process.getuid = () => 1000; await it.installDebianPackages(['gone']).catch(e => console.log(e.message))`
  const withGroup = `const { PACKAGE_GROUPS } = await import(${JSON.stringify(setup('../tasks.mjs'))}); PACKAGE_GROUPS.gone = { why: 'for this test', packages: { 'no-such-package': '/nowhere/no-such-program' } };`
  const { output } = call('debian-packages.mjs', withGroup + asPlainUser)
  assert.match(output, /for this test: no-such-package/)
  assert.match(output, /apt-get install --no-install-recommends no-such-package/)
})

test("apt-get's lists are refreshed only when they do not know the package", () => {
  put(
    'programs/apt-get',
    `#!/bin/sh\necho "$@" >> '${root}/apt-calls'\ncase "$*" in *install*) touch '${root}/wanted' ;; esac\n`,
    0o755,
  )
  put('programs/dpkg-query', '#!/bin/sh\nexit 1\n', 0o755)
  put('programs/sudo', '#!/bin/sh\nshift\n[ "$1" = true ] || exec "$@"\n', 0o755)
  const line = `process.getuid = () => 1000; const { PACKAGE_GROUPS } = await import(${JSON.stringify(setup('../tasks.mjs'))}); PACKAGE_GROUPS.gone = { why: 'for this test', packages: { wanted: root + '/wanted' } }; await it.installDebianPackages(['gone'])`
  const aptCalls = (knows: boolean): string => {
    rmSync(join(root, 'wanted'), { force: true })
    rmSync(join(root, 'apt-calls'), { force: true })
    put('programs/apt-cache', `#!/bin/sh\nexit ${knows ? 0 : 100}\n`, 0o755)
    const { output, code } = call('debian-packages.mjs', line)
    assert.equal(code, 0, output)
    return readFileSync(join(root, 'apt-calls'), 'utf8')
  }
  assert.doesNotMatch(aptCalls(true), /update/)
  assert.match(aptCalls(false), /update[\s\S]*install .*wanted/)
})

test("a killed set-up's lock is taken over, a living one's is waited for", () => {
  put('lock', '999999999 1')
  const locked = `await it.withSetupLock(root + '/lock', async () => console.log('mine'))`
  assert.equal(call('setup-lock.mjs', locked).output.trim(), 'mine')
  const held = `await it.withSetupLock(root + '/lock', () => { setTimeout(() => console.log('first'), 300); return Promise.all([it.withSetupLock(root + '/other', async () => {}), new Promise(r => setTimeout(r, 400))]) }); ${locked}`
  assert.equal(call('setup-lock.mjs', held).output.trim(), 'first\nmine')
})
