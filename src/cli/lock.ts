import { LifeboatError } from '../core/errors.ts'
import { uncover } from '../maintenance/covered-objects.ts'
import { type RenewalResult, renewLocks } from '../maintenance/lock-renewal.ts'
import { lockStatus } from '../maintenance/lock-status.ts'
import { maintenanceContext } from '../maintenance/maintenance.ts'
import { days, OVERDUE_RENEWAL } from '../repository/lock-policy.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'
import type { Output } from './output.ts'
import { phasedBar } from './phased-bar.ts'
import { resolvePoint } from './resolve-point.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly dryRun?: boolean
}

export const lockCommand = verb<Flags>({
  syntax: 'lock <action> [points...]',
  description:
    'show: how long points are locked; renew: extend the locks of all that is kept; repair: uncover what somebody has hidden or overwritten.',
  examples: [
    "--repo 's3://backups/site1' lock show",
    "--repo 's3://backups/site1' lock show web1@latest --json",
    "--repo 's3://backups/site1' lock renew --dry-run",
    "--repo 's3://backups/site1' lock repair",
  ],
  options: command =>
    command.option('--dry-run', 'renew, repair: say what would be done, and how many requests it takes'),
  async run(invocation, [action = '', ...points], flags) {
    if (action === 'show') return show(invocation, points)
    if (points.length > 0 && (action === 'renew' || action === 'repair'))
      throw new LifeboatError('usage', `lock ${action} takes no points`, { hint: 'it is about all that are kept' })
    if (action === 'renew') return renew(invocation, flags)
    if (action === 'repair') return repair(invocation, flags)
    throw new LifeboatError('usage', `lock ${action} is not known`, { hint: 'show, renew and repair are' })
  },
})

/** Named points are asked for object by object; all of them by their manifests and the last renewal. */
async function show(invocation: Invocation, words: readonly string[]): Promise<number> {
  const { output, signal } = invocation
  await using opened = await invocation.openRepository()
  const { repository } = opened
  const context = maintenanceContext(repository, invocation.who)
  const { lock } = repository.reading
  const named = []
  for (const text of words) named.push((await resolvePoint(repository, text, { signal })).point)
  const points = words.length > 0 ? named : await repository.points({ signal })
  const status = await lockStatus(context, { points, asked: words.length > 0, signal })
  const { renewal } = status
  const listed = status.points.map(({ point: { id, vm }, lockedUntil = null, by }) => ({ id, vm, lockedUntil, by }))
  output.result({ lock, renewal, points: listed }, () => {
    if (lock)
      output.line(`${lock.mode}, locked for ${days(lock.forMs)}, to be renewed every ${days(lock.renewEveryMs)}`)
    const last = renewal.last ? `last renewed ${shortTime(renewal.last)} by ${renewal.who}` : 'never renewed yet'
    output.line(`${last}; all that is kept is locked until ${shortTime(renewal.until)} at least`)
    output.table(
      [{ title: 'POINT' }, { title: 'VM' }, { title: 'LOCKED UNTIL' }, { title: 'TOLD BY' }],
      listed.map(({ id, vm, lockedUntil, by }) => [id, vm, lockedUntil ? shortTime(lockedUntil) : 'NOT LOCKED', by]),
    )
  })
  if (renewal.isOverdue) output.warning(OVERDUE_RENEWAL)
  const open = listed.filter(({ lockedUntil }) => lockedUntil === null)
  for (const { id, vm } of open)
    output.warning(`${vm}@${id} is not locked, or not whole: \`lifeboat verify\` tells more`)
  return open.length === 0 ? exitCode.done : exitCode.integrity
}

async function renew(invocation: Invocation, { dryRun }: Flags): Promise<number> {
  const { output, signal } = invocation
  await using opened = await invocation.openRepository({ dryRun })
  const { repository } = opened
  using bar = phasedBar(output)
  const context = maintenanceContext(repository, invocation.who)
  const result = await renewLocks(context, { dryRun, progress: bar.update, signal })
  bar.stop()
  output.result({ ...result, dryRun: dryRun === true }, () => printRenewal(output, result, dryRun === true))
  for (const key of result.covered)
    output.warning(`${key} is hidden or lies under another version: somebody did that. \`lifeboat lock repair\``)
  for (const { manifest, what } of result.damaged) output.warning(`${manifest}: ${what}`)
  return result.covered.length + result.damaged.length === 0 ? exitCode.done : exitCode.integrity
}

function printRenewal(output: Output, result: RenewalResult, isDry: boolean): void {
  const { points, outlived, objects, extended, requests, until } = result
  output.line(
    `${points} points need ${objects} objects; ${extended} locks ${isDry ? 'would be' : 'were'} extended, with ${requests} requests about locks`,
  )
  if (outlived > 0)
    output.line(`${outlived} more are let go by retention: their locks end, and prune and gc remove them`)
  if (!isDry) output.line(`all of it is locked until ${shortTime(until)} at least`)
}

async function repair(invocation: Invocation, { dryRun }: Flags): Promise<number> {
  const { output, signal } = invocation
  await using opened = await invocation.openRepository({ dryRun })
  const result = await uncover(opened.repository.reading, { dryRun, signal })
  output.result({ ...result, dryRun: dryRun === true }, () => {
    for (const key of result.uncovered) output.line(`${dryRun ? 'would uncover' : 'uncovered'} ${key}`)
    output.line(`${result.uncovered.length} objects ${dryRun ? 'are covered' : 'uncovered'}`)
  })
  for (const key of result.lost) output.warning(`${key}: no version of it authenticates; it is left as it is`)
  return result.lost.length === 0 ? exitCode.done : exitCode.integrity
}

const shortTime = (time: Date): string => time.toISOString().replace(/\.\d+Z$/, 'Z')
