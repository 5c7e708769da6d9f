import { LifeboatError } from '../core/errors.ts'
import { markDamaged } from '../repository/mark-damaged.ts'
import { ReadPlan } from '../repository/read-plan.ts'
import type { Repository } from '../repository/repository.ts'
import { type VerifyRequest, type VerifyResult, verifyPoints } from '../repository/verify.ts'
import type { VerifyProblem } from '../repository/verify-problems.ts'
import { showEstimate, withMore } from './estimate.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation, OpenedRepository } from './invocation.ts'
import type { Output } from './output.ts'
import { phasedBar } from './phased-bar.ts'
import { resolvePoint } from './resolve-point.ts'
import { parsePercent } from './sample.ts'
import { storedSize, unknownSize } from './stored-size.ts'
import { formatBytes } from './units.ts'
import { verb } from './verb.ts'
import { rememberVerified } from './verified-points.ts'
import { verifyAdopt } from './verify-adopt.ts'
import { type Beyond, verifyBeyond } from './verify-beyond.ts'
import { VerifyProgress } from './verify-progress.ts'
import { verifyStored } from './verify-stored.ts'

interface Flags {
  readonly all?: boolean
  readonly sample?: string
  readonly stored?: boolean
  readonly adopt?: string
  readonly restart?: boolean
  readonly acceptLoss?: boolean
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
      .option('--adopt <point>', 'make a void point count: all of it is read, then it is committed under a new id')
      .option('--restart', 'begin anew instead of going on where the last run was interrupted')
      .option('--accept-loss', 'points that this host has seen and that are gone are no longer an alarm')
      .option('--dry-run', 'what it would ask of the store, and what that costs; reads no chunks'),
  async run(invocation, words, flags) {
    const { output, signal } = invocation
    if (flags.adopt !== undefined) return verifyAdopt(invocation, flags.adopt, words)
    if (flags.stored) return verifyStored(invocation, words, flags)
    if ((words.length === 0) !== (flags.all === true))
      throw new LifeboatError('usage', 'name points, or say --all', { hint: 'for example: lifeboat verify --all' })
    const samplePercent = parsePercent(flags.sample ?? '100')
    await using opened = await invocation.openRepository({ dryRun: flags.dryRun })
    const { repository } = opened
    const listed = await repository.points({ all: true, signal })
    const points = flags.all ? listed.filter(({ state }) => state === 'committed') : []
    for (const text of words) points.push((await resolvePoint(repository, text, { signal })).point)
    if (flags.dryRun)
      return await estimate(invocation, opened, { points, listed, samplePercent, isAll: flags.all === true })
    using bar = phasedBar(output)
    const { packBytes, objects } = bar.isShown ? await storedSize(opened.store, { signal }) : unknownSize
    const kept = await keptProgress(invocation, repository, { points, samplePercent, ...flags })
    const trees = await verifyPoints(repository, {
      points,
      samplePercent,
      proven: kept.proven,
      signal,
      progress: ({ checked, bytes }) => {
        kept.tick()
        bar.update('records', bytes, Math.max(bytes, packBytes), { label: `${checked} records`, say: formatBytes })
      },
    }).catch(async error => {
      await kept.save()
      throw error
    })
    await kept.finish()
    if (flags.acceptLoss) await opened.seen.accept(opened.seen.missing)
    const beyond = await verifyBeyond(
      opened,
      { points, listed, isAll: flags.all === true },
      {
        progress: looked => bar.update('objects', looked, Math.max(looked, objects), { label: 'all objects' }),
        signal,
      },
    )
    bar.stop()
    const result = joined(trees, beyond)
    const isWhole = samplePercent === 100
    const verified = {
      result,
      whole: isWhole ? points.map(({ id }) => id) : [],
      isAll: flags.all === true && isWhole,
      who: invocation.who,
      now: invocation.surroundings.clock.now(),
    }
    await markDamaged(repository, verified, { signal })
    if (isWhole) {
      const harmed = result.problems.flatMap(problem => problem.points)
      const sound = points.map(({ id }) => id).filter(id => !harmed.includes(id))
      const proof = { sound, harmed, now: kept.began }
      await rememberVerified(invocation.stateDir, repository.id, proof, text => output.warning(text))
    }
    const { checked, bytes, unknown } = result
    const problems = result.problems.map(({ disks, damage: _, ...problem }) => ({ ...problem, ranges: disks }))
    const resumed = kept.isResumed ? { resumedFrom: kept.began } : {}
    output.result({ points: result.points, checked, bytes, problems, unknown, ...resumed }, () => print(output, result))
    return problems.length === 0 ? exitCode.done : exitCode.integrity
  },
})

interface WholeResult extends VerifyResult {
  readonly unknown: readonly string[]
}

const joined = (trees: VerifyResult, beyond: Beyond): WholeResult => ({
  points: trees.points,
  checked: trees.checked + beyond.checked,
  bytes: trees.bytes + beyond.bytes,
  // What points met is told with whom it harms.
  problems: [...trees.problems, ...beyond.problems.filter(problem => !trees.problems.some(isSame(problem)))],
  unknown: beyond.unknown,
})

const isSame = (a: VerifyProblem) => (b: VerifyProblem) => a.object === b.object && a.kind === b.kind

/** The same question again goes on where it was interrupted; points that were added meanwhile are read as well. */
async function keptProgress(
  { stateDir, surroundings, output }: Invocation,
  { id }: Repository,
  { points, samplePercent, all, restart = false }: Flags & Pick<VerifyRequest, 'points' | 'samplePercent'>,
): Promise<VerifyProgress> {
  const which = all ? 'all' : points.map(point => point.id).sort()
  const asked = `${which} ${samplePercent}%`
  const warn = (message: string) => output.warning(message)
  const kept = await VerifyProgress.load(
    { stateDir, repository: id, asked },
    { clock: surroundings.clock, restart, warn },
  )
  if (kept.isResumed)
    output.message(`goes on with what was begun at ${kept.began.toISOString()}; --restart begins anew`)
  return kept
}

async function estimate(
  invocation: Invocation,
  opened: OpenedRepository,
  { samplePercent, ...which }: Pick<VerifyRequest, 'points' | 'samplePercent'> & Parameters<typeof verifyBeyond>[1],
): Promise<undefined> {
  const { repository, meter } = opened
  const plan = new ReadPlan()
  const { signal, output } = invocation
  const trees = await verifyPoints(repository, { points: which.points, samplePercent, signal, plan })
  // Small objects all of them: they are read in earnest.
  const result = joined(trees, await verifyBeyond(opened, which, { signal }))
  const requests = withMore(meter.figures(), {
    get: { requests: plan.gets, bytes: plan.bytes },
    head: { requests: plan.heads, bytes: 0 },
  })
  const bytes = result.bytes + plan.recordBytes
  showEstimate(invocation, { requests, bytesKept: 0 }, { points: result.points, bytes, packs: plan.packs }, () =>
    output.line(`${result.points} points, ${formatBytes(bytes)} of records in ${plan.packs} packs`),
  )
  for (const { object, message } of result.problems) output.warning(`${object}: ${message}`)
  return undefined
}

function print(output: Output, { points, checked, bytes, problems, unknown }: WholeResult): void {
  for (const { object, kind, message, disks, points: harmed } of problems) {
    output.line(`${kind}: ${object}: ${message}`)
    if (disks.length === 0 && harmed.length > 0) output.line(`  harms points ${harmed.join(', ')}`)
    for (const { point, disk, ranges } of disks)
      output.line(`  harms ${point}/${disk}: ${ranges.map(({ offset, length }) => `${offset}+${length}`).join(' ')}`)
  }
  for (const key of unknown) output.message(`unknown: ${key} is no object of a repository`)
  output.line(`${points} points, ${checked} records (${formatBytes(bytes)}) authenticated, ${problems.length} problems`)
  if (problems.length > 0)
    output.line(
      'Other points are not harmed. Back the VM up again with --full: what it still holds heals these points as well; ' +
        '`lifeboat verify --all` then says what is left.',
    )
}
