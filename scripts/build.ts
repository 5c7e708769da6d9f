/**
 * `npm run build`: dist/ with the program and its declarations, ready to be packed. The addon was built by the set-up.
 * dist/ is made under another name and swapped in, so that a program that runs from it never sees half of it.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, renameSync, rmSync } from 'node:fs'

const fresh = `dist.new-${process.pid}`
process.on('exit', () => rmSync(fresh, { recursive: true, force: true }))
const { status } = spawnSync(
  process.execPath,
  ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', '--outDir', fresh],
  { stdio: 'inherit' },
)
if (status !== 0) process.exit(1)
const old = `dist.old-${process.pid}`
if (existsSync('dist')) renameSync('dist', old)
renameSync(fresh, 'dist')
rmSync(old, { recursive: true, force: true })
process.stdout.write(`dist/ is ready${existsSync('build/lifeboat.node') ? ', and so is build/lifeboat.node' : ''}\n`)
