import { LifeboatError } from '../core/errors.ts'
import { maintenanceContext } from '../maintenance/maintenance.ts'
import { listPolicies, policyOf, type StoredPolicy, setPolicy, unsetPolicy } from '../maintenance/policy.ts'
import { describePolicy, type RetentionPolicy } from '../maintenance/retention.ts'
import { hostZone } from '../repository/local-time.ts'
import type { Invocation } from './invocation.ts'
import { type RetentionFlags, retentionOf, retentionOptions } from './retention-flags.ts'
import { verb } from './verb.ts'

export const policyCommand = verb<RetentionFlags>({
  syntax: 'policy <action> [vm]',
  description:
    'set [VM]: what `lifeboat prune` keeps of a VM, or of each that has no policy of its own; replaces the one before. unset [VM]: takes it away. show [VM]: what counts.',
  examples: [
    '--repo /srv/backup policy set --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --time-zone Europe/Berlin',
    '--repo /srv/backup policy show web1',
  ],
  options: command => retentionOptions(command),
  async run(invocation, [action = '', vm], flags) {
    const policy = retentionOf(flags)
    if (action === 'set') return await set(invocation, vm, policy)
    if (action !== 'show' && action !== 'unset')
      throw new LifeboatError('usage', `policy ${action} is not known`, { hint: 'set, unset and show are' })
    if (policy)
      throw new LifeboatError('usage', `policy ${action} takes no flags`, {
        hint: '`lifeboat policy set` changes a policy',
      })
    return action === 'unset' ? await unset(invocation, vm) : await show(invocation, vm)
  },
})

async function set(invocation: Invocation, vm: string | undefined, policy: RetentionPolicy | undefined) {
  const { output, signal } = invocation
  if (!policy)
    throw new LifeboatError('usage', 'policy set says nothing of what to keep', {
      hint: 'add for example --keep-daily 7 --keep-weekly 4 --keep-monthly 12',
    })
  await using opened = await invocation.openRepository()
  const { repository } = opened
  if (vm !== undefined && (await repository.points({ vm, all: true, signal })).length === 0)
    output.message(`there is no point of a VM '${vm}' yet`)
  const stored = await setPolicy(
    maintenanceContext(repository, invocation.who),
    vm,
    { timeZone: hostZone(), ...policy },
    { signal },
  )
  output.result({ policies: [shown(stored)] }, () => output.line(`${subject(vm)}: ${describePolicy(stored.policy)}`))
  return undefined
}

async function unset(invocation: Invocation, vm: string | undefined) {
  const { output, signal } = invocation
  await using opened = await invocation.openRepository()
  const context = maintenanceContext(opened.repository, invocation.who)
  await unsetPolicy(context, vm, { signal })
  const counts = policyOf(await listPolicies(context, { vm, signal }), vm ?? '')
  output.result({ policies: counts ? [shown(counts)] : [] }, () =>
    output.line(
      `${subject(vm)}: ${counts ? `the default, ${describePolicy(counts.policy)}` : 'no policy: prune leaves all of it'}`,
    ),
  )
  return undefined
}

/** Of a VM the one that counts for it, which may be the default; else all. */
async function show(invocation: Invocation, vm: string | undefined) {
  const { output, signal } = invocation
  await using opened = await invocation.openRepository()
  const policies = await listPolicies(maintenanceContext(opened.repository, invocation.who), { vm, signal })
  const chosen = vm === undefined ? policies : [policyOf(policies, vm) ?? []].flat()
  output.result({ policies: chosen.map(shown) }, () =>
    chosen.length === 0
      ? output.line(`no policy${vm === undefined ? '' : ` for ${vm}`}: make one with lifeboat policy set`)
      : output.table(
          [{ title: 'VM' }, { title: 'KEEPS' }, { title: 'SET AT' }, { title: 'BY' }],
          chosen.map(({ vm: named, policy, when, who }) => [
            subject(named),
            describePolicy(policy),
            when.toISOString(),
            who,
          ]),
        ),
  )
  return undefined
}

const shown = ({ vm, policy, who, when }: StoredPolicy) => ({ vm: vm ?? null, ...policy, who, when })

const subject = (vm: string | undefined): string => vm ?? '(all others)'
