/** The package as users get it: built, packed, installed from the tarball elsewhere, and run. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { shell, tool } from '../guest/tool.ts'

const checkout = fileURLToPath(new URL('../..', import.meta.url))

test('the packed package installs into an empty folder, and runs', { timeout: 15 * 60_000 }, async t => {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-package-'))
  t.after(() => rm(folder, { recursive: true }))
  // A copy, so that the checkout's own dist/ is left alone.
  await shell(
    'mkdir "$2/copy"; cd "$1"; cp -r package.json tsconfig*.json src appliance kernel-mounts bin native build scripts recover systemd docs README.md LICENSE "$2/copy"',
    checkout,
    folder,
  )
  await shell('ln -s "$1/node_modules" "$2/copy/node_modules"', checkout, folder)
  await shell(
    'cd "$1/copy" && "$2" scripts/build.ts && npm pack --silent --pack-destination ..',
    folder,
    process.execPath,
  )
  const tarball = readdirSync(folder).find(name => name.endsWith('.tgz')) ?? ''
  const listed = await tool('tar', '-tzf', join(folder, tarball))
  assert.match(listed, /^package\/dist\/cli\/main\.js$/m)
  assert.match(listed, /^package\/build\/lifeboat\.node$/m)
  assert.match(listed, /^package\/appliance\/volumes$/m)
  assert.match(listed, /^package\/kernel-mounts\/volumes$/m)
  assert.match(listed, /^package\/systemd\/lifeboat-resume\.service$/m)
  assert.doesNotMatch(listed, /^package\/(src|test|bench)\//m)

  const prefix = join(folder, 'installed')
  const quiet = ['--no-audit', '--no-fund', '--prefer-offline', '--ignore-scripts=false']
  await tool('npm', 'install', '--global', '--prefix', prefix, ...quiet, join(folder, tarball))
  const { version } = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'))
  const said = await tool(join(prefix, 'bin/lifeboat'), '--version')
  assert.ok(said.includes(version), said)

  const repository = join(folder, 'repository')
  const made = await tool(
    join(prefix, 'bin/lifeboat'),
    '--repo',
    repository,
    'init',
    '--key-file',
    join(folder, 'key'),
    '--json',
  )
  assert.equal(JSON.parse(made).format, 1)
  const library = join(prefix, 'lib/node_modules/lifeboat/dist/index.js')
  const exported = await tool(
    process.execPath,
    '-e',
    `import(${JSON.stringify(library)}).then(it => console.log(Object.keys(it).join()))`,
  )
  assert.match(exported, /openRepository/)
})
