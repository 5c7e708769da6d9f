import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { packagedNode } from './npm-packages.mjs'
import { runCommand } from './run-command.mjs'
import { SetupError } from './say.mjs'

/** The build script does nothing when build/lifeboat.node is newer than its sources. */
export async function buildAddon(root) {
  const script = join(root, 'scripts', 'build-addon.mjs')
  if (!existsSync(script)) return
  const { code, output } = await runCommand(packagedNode(root), [script], { cwd: root })
  if (code !== 0) throw new SetupError(`The native addon did not compile:\n\n${output.trim()}`)
}
