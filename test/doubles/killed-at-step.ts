/**
 * Loaded into a process of the program (node --import): writes down each step that its session takes, and ends the process
 * by SIGKILL right after the one whose number, or whose name, the environment says.
 */
import { subscribe } from 'node:diagnostics_channel'
import { appendFileSync } from 'node:fs'

const { TEST_STEP_LOG: log = '', TEST_STEP_LAST: last = '', TEST_STEP_AFTER: name = '' } = process.env
let count = 0
subscribe('lifeboat:session-step', step => {
  if (log !== '') appendFileSync(log, `${step}\n`)
  if (++count === Number(last) || step === name) process.kill(process.pid, 'SIGKILL')
})
