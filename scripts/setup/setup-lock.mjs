import { linkSync, mkdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { say } from './say.mjs'

/**
 * Two set-ups of one checkout must not run at once: `npm ci` of one would delete what the other just installed. The lock
 * file names its owner by pid and start time, so that a killed owner's lock is taken over.
 */
export async function withSetupLock(path, work) {
  mkdirSync(dirname(path), { recursive: true })
  for (let waited = 0; !tryLock(path); waited++) {
    if (waited === 0) say(`another set-up of this checkout is running (${path}); waiting for it`)
    await new Promise(resolve => setTimeout(resolve, 500))
  }
  const drop = () => unlinkIfThere(path)
  process.on('exit', drop)
  try {
    return await work()
  } finally {
    process.off('exit', drop)
    drop()
  }
}

function tryLock(path) {
  // Linked into place, so that the lock is never seen without its owner's name.
  const mine = `${path}.${process.pid}`
  writeFileSync(mine, `${process.pid} ${startTimeOf(process.pid)}`)
  try {
    linkSync(mine, path)
    return true
  } catch (error) {
    if (error.code !== 'EEXIST') throw error
  } finally {
    unlinkIfThere(mine)
  }
  const [pid, startTime] = readOrEmpty(path).split(' ')
  if (startTimeOf(pid) === startTime && startTime !== '') return false
  unlinkIfThere(path)
  return tryLock(path)
}

/** Field 22 of /proc/PID/stat: with the pid it names one process for ever. Empty where there is none. */
function startTimeOf(pid) {
  const stat = readOrEmpty(`/proc/${pid}/stat`)
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
}

function readOrEmpty(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function unlinkIfThere(path) {
  try {
    unlinkSync(path)
  } catch (error) {
    if (error.code !== 'ENOENT') throw error
  }
}
