import { maintenanceContext } from '../maintenance/maintenance.ts'
import { applyPrune, type PrunePlan, planPrune } from '../maintenance/prune.ts'
import { hostZone } from '../repository/local-time.ts'
import type { PointSummary } from '../repository/repository.ts'
import { exitCode } from './exit-code.ts'
import type { Output } from './output.ts'
import { phasedBar } from './phased-bar.ts'
import { type RetentionFlags, retentionOf, retentionOptions } from './retention-flags.ts'
import { verb } from './verb.ts'

type Flags = RetentionFlags & {
  readonly vm?: string
  readonly dryRun?: boolean
  readonly removeEverything?: boolean
  readonly lastPoint?: boolean
}

export const pruneCommand = verb<Flags>({
  syntax: 'prune',
  description:
    'Forget the points that retention does not keep, by the flags or else by the stored policies (`lifeboat policy`). Shows each point with its reasons.',
  examples: [
    '--repo /srv/backup prune --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run',
    '--repo /srv/backup prune --vm web1',
  ],
  options: command =>
    retentionOptions(command)
      .option('--vm <vm>', 'only this VM')
      .option('--dry-run', 'only say what would be done')
      .option(
        '--remove-everything',
        'with --vm: counts that keep nothing are meant; the newest point stays all the same',
      )
      .option('--last-point', 'not even the newest point stays for being the newest'),
  async run(invocation, _words, flags) {
    const { output, signal } = invocation
    const { vm, dryRun = false, removeEverything, lastPoint } = flags
    const policy = retentionOf(flags)
    await using opened = await invocation.openRepository()
    const context = maintenanceContext(opened.repository, invocation.who)
    using bar = phasedBar(output)
    const plan = await planPrune(context, {
      progress: bar.update,
      vm,
      policy,
      zone: hostZone(),
      removeEverything,
      lastPoint,
      signal,
    })
    if (!dryRun) await applyPrune(context, plan, { progress: bar.update, signal })
    bar.stop()
    const document = {
      dryRun,
      keep: plan.keep.map(({ point, reasons }) => ({ ...named(point), reasons })),
      remove: plan.remove.map(({ point, why }) => ({ ...named(point), why })),
      damaged: plan.damaged,
      withoutPolicy: plan.withoutPolicy,
    }
    output.result(document, () => print(output, document))
    for (const name of plan.withoutPolicy)
      output.warning(`nobody has said what to keep of ${name}: all of it stays (\`lifeboat policy set\`)`)
    for (const { point, reasons } of plan.keep)
      if (reasons.includes('dated in the future'))
        output.warning(`${point.vm}@${point.id} is dated in the future: it stays and counts for nothing`)
    for (const key of plan.damaged)
      output.warning(`${key} does not authenticate: it stays and counts for nothing; \`lifeboat forget\` removes it`)
    return plan.damaged.length === 0 ? exitCode.done : exitCode.integrity
  },
})

const named = ({ id, vm, takenAt }: PointSummary) => ({ id, vm, takenAt })
type Named = ReturnType<typeof named>

interface Document {
  readonly dryRun: boolean
  readonly keep: readonly (Named & { readonly reasons: PrunePlan['keep'][number]['reasons'] })[]
  readonly remove: readonly (Named & { readonly why: string })[]
}

function print(output: Output, { dryRun, keep, remove }: Document): void {
  const rows = [
    ...keep.map(point => ({ ...point, what: 'keep', text: point.reasons.join(', ') })),
    ...remove.map(point => ({ ...point, what: 'forget', text: point.why })),
  ].sort((a, b) => (a.vm === b.vm ? a.takenAt.getTime() - b.takenAt.getTime() : a.vm < b.vm ? -1 : 1))
  if (rows.length > 0)
    output.table(
      [{ title: 'POINT' }, { title: 'VM' }, { title: 'TAKEN AT' }, { title: '' }, { title: 'WHY' }],
      rows.map(({ id, vm, takenAt, what, text }) => [
        id,
        vm,
        takenAt.toISOString().replace(/\.\d+Z$/, 'Z'),
        what,
        text,
      ]),
    )
  output.line(`${keep.length} kept, ${remove.length} ${dryRun ? 'would be forgotten' : 'forgotten'}`)
  if (remove.length > 0 && !dryRun) output.message('`lifeboat gc` gives the space back')
}
