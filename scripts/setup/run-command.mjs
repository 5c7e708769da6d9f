import { spawn, spawnSync } from 'node:child_process'

/**
 * Runs a program to its end and resolves to its exit code and its output's last part. With `show`, output goes to the
 * person as it comes. Ctrl-C reaches the program from the terminal; a SIGTERM to us is passed on.
 */
export function runCommand(command, args, { env = process.env, cwd, show = false } = {}) {
  return new Promise(resolve => {
    const child = spawn(command, args, { env, cwd, stdio: ['ignore', 'pipe', 'pipe'] })
    let tail = ''
    const take = chunk => {
      if (show) process.stderr.write(chunk)
      tail = (tail + chunk).slice(-64 * 1024)
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    const passOn = signal => child.kill(signal)
    process.on('SIGTERM', passOn)
    process.on('SIGINT', ignore)
    const done = (code, signal) => {
      process.off('SIGTERM', passOn)
      process.off('SIGINT', ignore)
      if (signal) process.kill(process.pid, signal)
      resolve({ code: code ?? 1, output: tail })
    }
    child.on('error', error => {
      tail += error.message
      done(127, null)
    })
    child.on('close', (code, signal) => {
      // npm and apt end themselves on Ctrl-C with 130: then so do we.
      done(code, signal ?? (code === 130 ? 'SIGINT' : null))
    })
  })
}

const ignore = () => {}

/** A quick question to a program: its standard output, or undefined when it is absent or fails. */
export function ask(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  return result.status === 0 ? result.stdout : undefined
}

/** The same for a program whose output counts also when it fails; empty when it is absent. */
export function askWhateverItsExitCode(command, args) {
  return spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).stdout ?? ''
}
