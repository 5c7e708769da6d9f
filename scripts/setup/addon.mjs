import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { packagedNode } from './npm-packages.mjs'
import { runCommand } from './run-command.mjs'
import { SetupError, say } from './say.mjs'

/** The build script does nothing when build/lifeboat.node is newer than its sources. */
export async function buildAddon(root) {
  const script = join(root, 'scripts', 'build-addon.mjs')
  if (!existsSync(script)) return
  const slow = setTimeout(() => say('compiling the native addon (up to a minute)'), 2000)
  const { code, output } = await runCommand(packagedNode(root), [script], { cwd: root })
  clearTimeout(slow)
  if (code !== 0) throw new SetupError(`The native addon did not compile:\n\n${output.trim()}`)
}
