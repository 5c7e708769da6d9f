#!/usr/bin/env node
/**
 * The entry of every `npm run` task: set-up as needed, then the task itself with Node 24. Plain JavaScript without
 * dependencies, because it is what a fresh Debian 12 machine runs with its Node 18.
 */
import { spawn } from 'node:child_process'
import { delimiter, join } from 'node:path'
import { packagedNode } from './setup/npm-packages.mjs'
import { explain, root, setUp } from './setup.mjs'
import { groupsFor, TASKS } from './tasks.mjs'

const [task = '', ...args] = process.argv.slice(2)
if (!Object.hasOwn(TASKS, task)) {
  const list = Object.entries(TASKS).map(([name, { says }]) => `    npm run ${name.padEnd(10)} ${says}`)
  process.stderr.write(`Usage: node scripts/run.mjs TASK [arguments]\n\n${list.join('\n')}\n`)
  process.exit(2)
}

await setUp({ groups: groupsFor(task, args), addon: TASKS[task].addon }).catch(explain)
const child = spawn(packagedNode(root), [...TASKS[task].run, ...args], {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...process.env,
    // Programs of the packages first, and the folders where Debian keeps mkfs and sgdisk, which a plain user's PATH lacks.
    PATH: [join(root, 'node_modules', '.bin'), process.env.PATH ?? '', '/usr/sbin', '/sbin'].join(delimiter),
  },
})

// A terminal's Ctrl-C reaches the task by itself; we only wait until it has cleaned up. Other signals are passed on.
process.on('SIGINT', () => {
  if (!process.stdin.isTTY) child.kill('SIGINT')
})
for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))

child.on('error', error => {
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 1
})
child.on('close', (code, signal) => {
  if (signal === null) process.exitCode = code
  else {
    process.removeAllListeners(signal)
    process.kill(process.pid, signal)
  }
})
