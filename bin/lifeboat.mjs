#!/usr/bin/env node
/**
 * The command `lifeboat`. Plain JavaScript, because it may be started by an older Node than the program needs: then it
 * starts itself again with the Node that the package brings along. In a checkout it runs src/ as it is, in an installed
 * package dist/.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8'

const NODE_NEEDED = 24
const home = dirname(dirname(fileURLToPath(import.meta.url)))

// V8 looks at these flags again and again, so that they can be set while it runs. The sizes of its heap it reads once: a second
// process for them would take 40 ms, and lose the sockets that systemd passed (decision 0026).
//
// What is captured or served lies outside of V8's heap, whose objects are few and short-lived. It lets the part for young objects
// grow all the same, while the program is loaded: kept at its first size, the peak of a capture is 11 MiB lower at the same CPU.
const YOUNG_HEAP = '--semi-space-growth-factor=1'
// A small heap is marked as a whole whenever it has grown a little, 20 times for a GiB that is served from memory. A server's may
// grow to two and a half times what is alive; four times would take 25 MiB more, and a seventh less CPU where memory answers.
const SERVING = ['--heap-growing-percent=150', YOUNG_HEAP]
const FLAGS = {
  // The work is done by the addon: V8's last compiler would take 7 MiB more, for no less CPU.
  backup: [YOUNG_HEAP, '--no-turbofan'],
  export: SERVING,
  mount: SERVING,
  boot: SERVING,
  resume: SERVING,
}

if (Number.parseInt(process.versions.node, 10) >= NODE_NEEDED) await runProgram()
else runAgain(packagedNode())

async function runProgram() {
  const verb = process.argv.slice(2).find(word => Object.hasOwn(FLAGS, word))
  if (FLAGS[verb] === SERVING && !isSaid(YOUNG_HEAP)) growYoungHeapOnce()
  for (const flag of FLAGS[verb] ?? []) if (!isSaid(flag)) setFlagsFromString(flag)
  const source = join(home, 'src', 'cli', 'main.ts')
  const compiled = join(home, 'dist', 'cli', 'main.js')
  const entry = [source, compiled].find(path => existsSync(path))
  if (entry === undefined) giveUp(`Neither ${source} nor ${compiled} exists.`, 'Please run: npm run build')
  const { main } = await import(pathToFileURL(entry).href)
  await main()
}

/** From 1 MiB to 4, twice: with less, what is on its way to clients is taken for old. V8 grows it when enough has survived in it. */
function growYoungHeapOnce() {
  const size = () => getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space')?.space_size ?? 0
  setFlagsFromString('--semi-space-growth-factor=4')
  for (let tries = 0; tries < 10 && size() < 4 << 20; tries++) Array.from({ length: 20_000 }, (_, n) => ({ n }))
}

/** Whoever starts Node with such a flag means it. */
function isSaid(flag) {
  const [name] = flag.split('=')
  return process.execArgv.some(word => word.replaceAll('_', '-').split('=')[0] === name)
}

/** npm may have put the package `node` beside this one or above it. */
function packagedNode() {
  try {
    const node = join(dirname(createRequire(import.meta.url).resolve('node/package.json')), 'bin', 'node')
    if (existsSync(node)) return node
  } catch {
    // Not installed at all: said below.
  }
  const cure = existsSync(join(home, 'scripts', 'setup.mjs'))
    ? 'npm run setup'
    : 'npm rebuild node --ignore-scripts=false'
  return giveUp(
    `Lifeboat needs Node ${NODE_NEEDED} or later; this is ${process.version}, and the package's own is not there.`,
    `Please run in ${home}: ${cure}`,
  )
}

function runAgain(node) {
  const { stdio, env } = passedOn()
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio, env })
  // A terminal's Ctrl-C reaches the child by itself, and a second one would mean "at once".
  process.on('SIGINT', () => {
    if (!process.stdin.isTTY) child.kill('SIGINT')
  })
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('error', error => giveUp(`${node} did not start: ${error.message}`, 'Please run: npm rebuild node'))
  child.on('close', (code, signal) => {
    if (signal === null) process.exitCode = code
    else {
      process.removeAllListeners(signal)
      process.kill(process.pid, signal)
    }
  })
}

/** Sockets that systemd handed to this process are for the one that it starts. */
function passedOn() {
  const stdio = ['inherit', 'inherit', 'inherit']
  if (process.env.LISTEN_PID !== String(process.pid)) return { stdio, env: process.env }
  for (let i = 0; i < Math.min(Number(process.env.LISTEN_FDS), 16); i++) stdio.push(3 + i)
  return { stdio, env: { ...process.env, LISTEN_PID: `parent:${process.pid}` } }
}

function giveUp(...lines) {
  process.stderr.write(`${lines.join('\n')}\n`)
  process.exit(2)
}
