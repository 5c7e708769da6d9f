import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { markDamaged } from '../repository/mark-damaged.ts'
import { ReadPlan } from '../repository/read-plan.ts'
import type { Repository } from '../repository/repository.ts'
import { type VerifyRequest, type VerifyResult, verifyPoints } from '../repository/verify.ts'
import { showEstimate, withMore } from './estimate.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation, OpenedRepository } from './invocation.ts'
import type { Output } from './output.ts'
import { resolvePoint } from './resolve-point.ts'
import { parsePercent } from './sample.ts'
import { formatBytes } from './units.ts'
import { verb } from './verb.ts'
import { rememberVerified } from './verified-points.ts'
import { verifyStored } from './verify-stored.ts'

interface Flags {
  readonly all?: boolean
  readonly sample?: string
  readonly stored?: boolean
  readonly dryRun?: boolean
}

export const verifyCommand = verb<Flags>({
  syntax: 'verify [points...]',
  description: 'Authenticate what is stored: every tree node, and every chunk or a sample of them.',
  examples: [
    '--repo /srv/backup verify --all',
    '--repo /srv/backup verify web1@latest --sample 5',
    '--repo /srv/backup verify --stored',
  ],
  options: command =>
    command
      .option('--all', 'all points')
      .option('--sample <percent>', 'of the chunks; nodes are always read', '100')
      .option('--stored', 'every pack against its own checksums, without any key: finds rot, not tampering')
      .option('--dry-run', 'what it would ask of the store, and what that costs; reads tree nodes only'),
  async run(invocation, words, flags) {
    const { output, signal } = invocation
    if (flags.stored) return verifyStored(invocation, words, flags)
    if ((words.length === 0) !== (flags.all === true))
      throw new LifeboatError('usage', 'name points, or say --all', { hint: 'for example: lifeboat verify --all' })
    const samplePercent = parsePercent(flags.sample ?? '100')
    await using opened = await invocation.openRepository({ dryRun: flags.dryRun })
    const { repository } = opened
    const points = flags.all ? [...(await repository.points({ signal }))] : []
    for (const text of words) points.push((await resolvePoint(repository, text, { signal })).point)
    if (flags.dryRun) return await estimate(invocation, opened, { points, samplePercent })
    const bar = output.progress()
    const total = bar.isShown ? await storedBytes(repository, { signal }) : 0
    const result = await verifyPoints(repository, {
      points,
      samplePercent,
      signal,
      progress: ({ checked, bytes }) => bar.update(bytes, Math.max(bytes, total), `${checked} records`),
    }).finally(() => bar.stop())
    const verified = {
      result,
      whole: samplePercent === 100 ? points.map(({ id }) => id) : [],
      isAll: flags.all === true && samplePercent === 100,
      who: invocation.who,
      now: invocation.surroundings.clock.now(),
    }
    await markDamaged(repository, verified, { signal })
    if (samplePercent === 100) {
      const harmed = result.problems.flatMap(problem => problem.points)
      const sound = points.map(({ id }) => id).filter(id => !harmed.includes(id))
      const now = invocation.surroundings.clock.now()
      await rememberVerified(invocation.stateDir, repository.id, { sound, harmed, now }, text => output.warning(text))
    }
    const problems = result.problems.map(({ disks, damage: _, ...problem }) => ({ ...problem, ranges: disks }))
    output.result({ points: result.points, checked: result.checked, bytes: result.bytes, problems }, () =>
      print(output, result),
    )
    return result.problems.length === 0 ? exitCode.done : exitCode.integrity
  },
})

async function estimate(
  invocation: Invocation,
  { repository, meter }: OpenedRepository,
  { points, samplePercent }: Pick<VerifyRequest, 'points' | 'samplePercent'>,
): Promise<undefined> {
  const plan = new ReadPlan()
  const { signal, output } = invocation
  const result = await verifyPoints(repository, { points, samplePercent, signal, plan })
  const requests = withMore(meter.figures(), { get: { requests: plan.gets, bytes: plan.bytes } })
  const bytes = result.bytes + plan.recordBytes
  showEstimate(invocation, { requests, bytesKept: 0 }, { points: result.points, bytes, packs: plan.packs }, () =>
    output.line(`${result.points} points, ${formatBytes(bytes)} of records in ${plan.packs} packs`),
  )
  for (const { object, message } of result.problems) output.warning(`${object}: ${message}`)
  return undefined
}

/** All packs: the most that there is to read. Points share them, so chosen points end before the bar does. */
async function storedBytes({ store }: Repository, options: AbortOptions): Promise<number> {
  let bytes = 0
  for (const prefix of ['packs/', 'meta/']) for await (const { size } of store.list(prefix, options)) bytes += size
  return bytes
}

function print(output: Output, { points, checked, bytes, problems }: VerifyResult): void {
  for (const { object, kind, message, disks, points: harmed } of problems) {
    output.line(`${kind}: ${object}: ${message}`)
    if (disks.length === 0) output.line(`  harms points ${harmed.join(', ')}`)
    for (const { point, disk, ranges } of disks)
      output.line(`  harms ${point}/${disk}: ${ranges.map(({ offset, length }) => `${offset}+${length}`).join(' ')}`)
  }
  output.line(`${points} points, ${checked} records (${formatBytes(bytes)}) authenticated, ${problems.length} problems`)
  if (problems.length > 0)
    output.line(
      'Other points are not harmed. Back the VM up again with --full: what it still holds heals these points as well; ' +
        '`lifeboat verify --all` then says what is left.',
    )
}
