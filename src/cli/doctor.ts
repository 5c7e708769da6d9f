import { isLifeboatError, messageOf } from '../core/errors.ts'
import { listKeys } from '../maintenance/keys.ts'
import type { Check } from '../recovery/doctor.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'
import { runDirOf } from './run-dir.ts'
import { verb } from './verb.ts'

export const doctorCommand = verb({
  syntax: 'doctor',
  isQuery: true,
  description: 'Tell what this host can and cannot do, each with what to do about it.',
  examples: ['doctor', 'doctor --json', '--repo /srv/backup --key-file /etc/lifeboat/key doctor'],
  async run(invocation) {
    const { output, signal, stateDir, cacheDir, surroundings } = invocation
    const { doctor } = await import('../recovery/doctor.ts')
    const runDir = runDirOf(invocation)
    const ofHost = await doctor({ stateDir, cacheDir, runDir, clock: surroundings.clock, signal })
    const checks = [...ofHost, ...(invocation.namesRepository ? [await keysCheck(invocation)] : [])]
    output.result({ checks }, () => {
      const width = Math.max(...checks.map(({ name }) => name.length))
      for (const { name, status, found, advice } of checks) {
        output.line(`${status.padEnd(4)}  ${name.padEnd(width)}  ${found}`)
        if (advice) output.line(`      ${' '.repeat(width)}  -> ${advice}`)
      }
    })
    return checks.some(({ status }) => status === 'fail') ? exitCode.failed : exitCode.done
  },
})

/** One key is one loss away from losing everything. */
async function keysCheck(invocation: Invocation): Promise<Check> {
  const name = 'repository-keys'
  try {
    await using opened = await invocation.openRepository()
    const { repository, store } = opened
    if (repository.encryption === 'none')
      return {
        name,
        status: 'warn',
        found: 'the repository is not encrypted',
        advice: 'Only a new one can be: lifeboat init.',
      }
    const { keyring } = repository.reading
    const keys = await listKeys({ store, keyring, slot: repository.slot }, { signal: invocation.signal })
    const count = keys.filter(({ usable }) => usable !== 'unknown').length
    const strange = keys.length - count
    const found = `${count} ${count === 1 ? 'key opens' : 'keys open'} the repository${strange > 0 ? `; nothing vouches for ${strange} more` : ''}`
    if (count > 1) return { name, status: 'ok', found }
    return {
      name,
      status: 'warn',
      found,
      advice: 'Add a second and keep it elsewhere: lifeboat key add --type passphrase.',
    }
  } catch (error) {
    invocation.signal.throwIfAborted()
    const advice = isLifeboatError(error) ? error.details.hint : undefined
    return { name, status: 'fail', found: messageOf(error), ...(advice ? { advice } : {}) }
  }
}
