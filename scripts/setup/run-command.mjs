import { spawn, spawnSync } from 'node:child_process'

/**
 * Runs a program to its end and resolves to its exit code and its output's last part. Ctrl-C reaches the program from the
 * terminal; a SIGTERM to us is passed on.
 */
export function runCommand(command, args, { env = process.env, cwd } = {}) {
  return new Promise(resolve => {
    const child = spawn(command, args, { env, cwd, stdio: ['ignore', 'pipe', 'pipe'] })
    let tail = ''
    const take = chunk => {
      tail = (tail + chunk).slice(-64 * 1024)
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    // npm and apt end themselves in order on Ctrl-C; when they have, so do we, whatever they said.
    let stopped
    const passOn = signal => {
      stopped = signal
      if (signal !== 'SIGINT') child.kill(signal)
    }
    for (const signal of SIGNALS) process.on(signal, passOn)
    const done = (code, signal) => {
      for (const each of SIGNALS) process.off(each, passOn)
      if (stopped ?? SIGNALS.includes(signal)) process.kill(process.pid, stopped ?? signal)
      else resolve({ code: code ?? 1, output: signal ? `${tail}\nended by ${signal}` : tail })
    }
    child.on('error', error => {
      tail += error.message
      done(127, null)
    })
    child.on('close', done)
  })
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP']

/** A quick question to a program: its standard output, or undefined when it is absent or fails. */
export function ask(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  return result.status === 0 ? result.stdout : undefined
}

/** The same for a program whose output counts also when it fails; empty when it is absent. */
export function askWhateverItsExitCode(command, args) {
  return spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).stdout ?? ''
}
