import { forgetPoints, planForget } from '../maintenance/forget.ts'
import { maintenanceContext } from '../maintenance/maintenance.ts'
import { describeProtection } from '../maintenance/protections.ts'
import type { PointSummary } from '../repository/repository.ts'
import { exitCode } from './exit-code.ts'
import { resolvePoint } from './resolve-point.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly lastPoint?: boolean
  readonly reason?: string
  readonly dryRun?: boolean
}

export const forgetCommand = verb<Flags>({
  syntax: 'forget <points...>',
  description:
    'Unlink points: the next `lifeboat gc` removes what only they need. It is not undone. Refused, all or none, for points that are held, locked, being read, the base of a running backup, or the newest of their VM.',
  examples: ['--repo /srv/backup forget web1@1f3a', '--repo /srv/backup forget web1@2026-11-21T10:00 --dry-run'],
  options: command =>
    command
      .option('--last-point', 'even the newest point of a VM')
      .option('--reason <text>', 'kept in the audit')
      .option('--dry-run', 'only say what would be done'),
  async run(invocation, words, { lastPoint = false, reason = 'asked for', dryRun = false }) {
    const { output, signal } = invocation
    await using opened = await invocation.openRepository()
    const { repository } = opened
    const chosen = new Map<string, PointSummary>()
    for (const text of words) {
      const { point } = await resolvePoint(repository, text, { signal })
      chosen.set(point.id, point)
    }
    const context = maintenanceContext(repository, invocation.who)
    const points = [...chosen.values()]
    const why = reason.slice(0, 1000)
    const plan = dryRun
      ? await planForget(context, points, { lastPoint, signal })
      : await forgetPoints(context, points, { why, lastPoint, signal })
    const document = {
      dryRun,
      keep: plan.keep.map(({ point, protections }) => ({
        ...named(point),
        reasons: protections.map(describeProtection),
      })),
      remove: plan.remove.map(point => ({ ...named(point), why })),
      gone: plan.gone.map(named),
    }
    output.result(document, () => {
      for (const { vm, id, reasons } of document.keep) output.line(`${vm}@${id} stays: ${reasons.join(', ')}`)
      for (const { vm, id } of document.remove) output.line(`${vm}@${id} ${dryRun ? 'would be' : 'is'} forgotten`)
      for (const { vm, id } of document.gone) output.line(`${vm}@${id} was forgotten before`)
      if (plan.remove.length > 0 && !dryRun) output.message('`lifeboat gc` gives the space back')
    })
    return plan.keep.length === 0 ? exitCode.done : exitCode.failed
  },
})

const named = ({ id, vm, takenAt }: PointSummary) => ({ id, vm, takenAt })
