import { limits } from '../core/limits.ts'
import { applyGc, type GcResult } from '../maintenance/gc-apply.ts'
import { type GcPlan, planGc } from '../maintenance/gc-plan.ts'
import { maintenanceContext } from '../maintenance/maintenance.ts'
import { compareClocks } from '../repository/clock-skew.ts'
import { parsePointKey } from '../repository/object-keys.ts'
import { showEstimate, withMore } from './estimate.ts'
import { gcProgress } from './gc-progress.ts'
import type { Output } from './output.ts'
import { describePin } from './pins.ts'
import { formatBytes, parseDurationMs } from './units.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly dryRun?: boolean
  readonly grace?: string
  readonly exclusive?: boolean
}

export const gcCommand = verb<Flags>({
  syntax: 'gc',
  description:
    'Give back the space of forgotten points: delete packs that nothing needs, rewrite those that are mostly dead. Announces what it will remove, then waits in the foreground for running backups and the grace; stopped before that is over, it has deleted nothing.',
  examples: ['--repo /srv/backup gc --dry-run', '--repo /srv/backup gc'],
  options: command =>
    command
      .option('--dry-run', 'only say what would be removed')
      .option('--grace <duration>', 'how long readers that cannot write to the repository are safe', '24h')
      .option('--exclusive', 'nobody else works on the repository: also tidies up after collections that died'),
  async run(invocation, _words, flags) {
    const { output, signal } = invocation
    const { dryRun = false, exclusive = false } = flags
    const graceMs = flags.grace === undefined ? limits.gcGraceMs : parseDurationMs(flags.grace, '--grace')
    if (graceMs === 0 && !dryRun)
      output.warning('without a grace, readers that cannot pin their point may lose it while they read')
    await using opened = await invocation.openRepository()
    const context = maintenanceContext(opened.repository, invocation.who)
    const { skewMs, storeNow, isFar } = await compareClocks(context, { signal })
    if (isFar)
      output.warning(
        `this host's clock and the store's are ${Math.round(skewMs / 1000)} s apart (the store says ${storeNow.toISOString()}): no rule of a collection depends on it, but points and locks are dated by it. Set the one that is wrong (NTP)`,
      )
    const bar = gcProgress(output)
    try {
      const plan = await planGc(context, { exclusive, signal, progress: bar.update })
      warn(output, plan)
      if (dryRun) {
        bar.stop()
        const { bytesFreed } = sizesOf(plan)
        const requests = withMore(opened.meter.figures(), requestsOf(plan))
        showEstimate(invocation, { requests, bytesKept: -bytesFreed }, planned(plan), () => printPlan(output, plan))
      } else {
        const result = await applyGc(context, plan, { graceMs, exclusive, signal, progress: bar.update })
        bar.stop()
        output.result({ dryRun, ...result, ...found(plan) }, () => printResult(output, result))
      }
    } catch (error) {
      bar.stop()
      if (signal.aborted) output.message(bar.stage())
      throw error
    } finally {
      bar.stop()
    }
    return undefined
  },
})

/** What a person should look at, beside what is removed. */
const found = ({ voids, standingPins, deadPins, others, fences, objects, bytes }: GcPlan) => ({
  voids,
  deadPins: deadPins.map(({ key }) => key),
  standingPins: standingPins.map(({ key, point, kind, host, expiryMs, modifiedAt }) => ({
    key,
    point,
    kind,
    host,
    expires: expiryMs !== null,
    modifiedAt,
  })),
  deadRuns: others,
  fences,
  objects,
  bytes,
})

const sizesOf = ({ condemned, compact, hints }: GcPlan) => ({
  packs: condemned.reduce((sum, { keys }) => sum + keys.length, 0),
  bytesFreed:
    condemned.reduce((sum, { bytes }) => sum + bytes, 0) +
    hints.reduce((sum, { bytes }) => sum + bytes, 0) +
    compact.reduce((sum, { bytes, bytesAfter }) => sum + bytes - bytesAfter, 0),
  bytesRewritten: compact.reduce((sum, { bytesAfter }) => sum + bytesAfter, 0),
})

/** Of steps 4 to 13: announcing and listing again; of each pack that is rewritten its sources, the copy, and the copy read back. */
function requestsOf(plan: GcPlan) {
  const { packs, bytesRewritten } = sizesOf(plan)
  const { forget, hints, compact } = plan
  const sources = compact.reduce((sum, pack) => sum + pack.sources.length, 0)
  const read = compact.reduce((sum, { bytes }) => sum + bytes, 0)
  const deletions = [forget.size, forget.size, packs, hints.length].map(count => Math.ceil(count / limits.s3BatchKeys))
  return {
    list: { requests: 10, bytes: 0 },
    get: { requests: sources + compact.length, bytes: read + bytesRewritten },
    put: { requests: 3 + plan.abandoned.size + compact.length, bytes: bytesRewritten },
    delete: { requests: 2 + compact.length + deletions.reduce((sum, count) => sum + count, 0), bytes: 0 },
  }
}

const planned = (plan: GcPlan) => ({
  dryRun: true,
  removed: [...plan.forget.keys()],
  forgotten: [...plan.abandoned.keys()],
  ...sizesOf(plan),
  packsRewritten: plan.compact.length,
  kept: plan.kept,
  ...found(plan),
})

function warn(output: Output, { others, voids, standingPins, deadPins, storeNow }: GcPlan): void {
  for (const { key, who, when } of others)
    output.warning(
      who === undefined
        ? `${key} cannot be read: no backup reuses anything while it is there`
        : `another collection by ${who} is under way since ${when}, or died then; both may run, and \`gc --exclusive\` removes dead ones`,
    )
  const lost = voids.flatMap(key => parsePointKey(key) ?? []).map(({ vm, point }) => `${vm}@${point}`)
  for (const point of lost.slice(0, VOIDS_NAMED))
    output.warning(
      `${point} DOES NOT COUNT: its backup was taken for dead just as it ended. It goes a month after it was written, unless it is brought back: \`lifeboat verify --adopt ${point}\``,
    )
  if (lost.length > VOIDS_NAMED)
    output.warning(`and ${lost.length - VOIDS_NAMED} more: \`lifeboat points --all\` shows them`)
  for (const pin of standingPins) {
    if (pin.kind === 'hold') continue
    const what = pin.point === undefined ? 'may pin any point: it cannot be read' : `keeps point ${pin.point}`
    const fate = deadPins.includes(pin) ? ': its reader has died, it counts for nothing and goes' : ''
    output.message(`${describePin(pin, storeNow)} ${fate ? `is of point ${pin.point}${fate}` : what}`)
  }
}

const VOIDS_NAMED = 20

function printPlan(output: Output, plan: GcPlan): void {
  const { packs, bytesFreed, bytesRewritten } = sizesOf(plan)
  output.line(`would remove ${plan.forget.size} points and ${packs} packs`)
  output.line(`would rewrite ${plan.compact.length} mostly dead packs (${formatBytes(bytesRewritten)} copied)`)
  output.line(`would free about ${formatBytes(bytesFreed)} of ${formatBytes(plan.bytes)}`)
  printKept(output, plan.kept)
}

function printResult(
  output: Output,
  { removed, packs, bytesFreed, bytesRewritten, kept, leases, leftovers }: GcResult,
): void {
  output.line(`${removed.length} points and ${packs} packs removed, ${formatBytes(bytesFreed)} freed`)
  if (bytesRewritten > 0) output.line(`${formatBytes(bytesRewritten)} of mostly dead packs were rewritten`)
  for (const [lease, end] of Object.entries(leases))
    if (end === 'fenced') output.line(`backup ${lease} had died: nothing of it counts`)
  if (leftovers)
    for (const [what, keys] of Object.entries(leftovers))
      if (keys.length > 0) output.line(`${keys.length} ${what} that dead processes had left were removed`)
  printKept(output, kept)
}

function printKept(output: Output, kept: Readonly<Record<string, number>>): void {
  for (const [reason, count] of Object.entries(kept)) output.line(`${count} ${reason}`)
}
