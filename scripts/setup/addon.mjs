import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { packagedNode } from './npm-packages.mjs'
import { runCommand } from './run-command.mjs'
import { SetupError, say } from './say.mjs'

/** What native/ becomes. The build scripts do nothing where their outputs are newer than their sources. */
const SCRIPTS = ['build-addon.mjs', 'build-guest-programs.mjs']

export async function buildAddon(root) {
  const slow = setTimeout(() => say('compiling the native addon (up to a minute)'), 2000)
  try {
    for (const name of SCRIPTS) await build(root, join(root, 'scripts', name))
  } finally {
    clearTimeout(slow)
  }
}

async function build(root, script) {
  if (!existsSync(script)) return
  const { code, output } = await runCommand(packagedNode(root), [script], { cwd: root })
  if (code !== 0) throw new SetupError(`The native addon did not compile:\n\n${output.trim()}`)
}
