import { isLifeboatError, messageOf } from '../core/errors.ts'
import { listKeys } from '../maintenance/keys.ts'
import type { Check } from '../recovery/doctor.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation, OpenedRepository } from './invocation.ts'
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
    const { applianceCheck } = await import('../guest/appliance-check.ts')
    const appliance = await applianceCheck({ cacheDir, clock: surroundings.clock, signal })
    const checks = [...ofHost, appliance, ...(invocation.namesRepository ? await repositoryChecks(invocation) : [])]
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

async function repositoryChecks(invocation: Invocation): Promise<readonly Check[]> {
  const { signal } = invocation
  try {
    await using opened = await invocation.openRepository()
    return [await keysCheck(opened, signal), await pointsCheck(opened, signal)]
  } catch (error) {
    signal.throwIfAborted()
    const advice = isLifeboatError(error) ? error.details.hint : undefined
    return [{ name: 'repository-keys', status: 'fail', found: messageOf(error), ...(advice ? { advice } : {}) }]
  }
}

/** One key is one loss away from losing everything. */
async function keysCheck({ repository, store }: OpenedRepository, signal: AbortSignal): Promise<Check> {
  const name = 'repository-keys'
  if (repository.encryption === 'none')
    return {
      name,
      status: 'warn',
      found: 'the repository is not encrypted',
      advice: 'Only a new one can be: lifeboat init.',
    }
  const { keyring } = repository.reading
  const keys = await listKeys({ store, keyring, slot: repository.slot }, { signal })
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
}

/** A point that somebody was told of and that does not count is one less than people believe. */
async function pointsCheck({ repository }: OpenedRepository, signal: AbortSignal): Promise<Check> {
  const name = 'repository-points'
  const points = await repository.points({ all: true, signal })
  const count = points.filter(({ state }) => state === 'committed').length
  const lost = points.filter(({ state }) => state === 'void').map(({ vm, id }) => `${vm}@${id}`)
  if (lost.length === 0) return { name, status: 'ok', found: `${count} points` }
  return {
    name,
    status: 'warn',
    found: `${count} points; ${lost.length} more do not count, because their backups were taken for dead as they ended`,
    advice: lost.map(point => `lifeboat verify --adopt ${point}`).join('; '),
  }
}
