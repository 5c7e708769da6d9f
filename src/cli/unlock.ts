import { LifeboatError } from '../core/errors.ts'
import { maintenanceContext } from '../maintenance/maintenance.ts'
import { unlockLeases } from '../maintenance/unlock.ts'
import { applyUnpin, planUnpin } from '../maintenance/unpin.ts'
import { gcProgress } from './gc-progress.ts'
import type { Invocation } from './invocation.ts'
import { describePin } from './pins.ts'
import { verb } from './verb.ts'

const WORDS = {
  ended: 'has ended by itself',
  committed: 'had committed its point; only its lease was left',
  fenced: 'had died: nothing of it counts',
  alive: 'is under way, and was left alone',
} as const

interface Flags {
  readonly pin?: readonly string[]
  readonly dryRun?: boolean
}

export const unlockCommand = verb<Flags>({
  syntax: 'unlock',
  description:
    'End what died: watches each lease for its expiry (an hour), and fences those that nobody refreshes. Backups that run are left alone. --pin: removes the pins of readers and sessions that are gone.',
  examples: ['--repo /srv/backup unlock', '--repo /srv/backup unlock --pin 1f3a5c7e90b2d4f6 --dry-run'],
  options: command =>
    command
      .option(
        '--pin <id...>',
        'instead: this pin, as `lifeboat gc --dry-run` lists it; one that its reader refreshes stays',
      )
      .option('--dry-run', 'of --pin: only say what would be removed'),
  async run(invocation, _words, { pin, dryRun = false }) {
    if (pin) return await unpin(invocation, pin, dryRun)
    if (dryRun) throw new LifeboatError('usage', '--dry-run is for --pin', { hint: 'name the pin: --pin ID' })
    const { output, signal } = invocation
    await using opened = await invocation.openRepository()
    const context = maintenanceContext(opened.repository, invocation.who)
    const bar = gcProgress(output)
    const ends = await unlockLeases(context, { signal, progress: bar.update }).finally(() => bar.stop())
    const leases = Object.entries(ends).map(([lease, end]) => ({ lease, end }))
    output.result({ leases }, () => {
      if (leases.length === 0) output.line('no backup is under way')
      for (const { lease, end } of leases) output.line(`${lease} ${WORDS[end]}`)
    })
    return undefined
  },
})

async function unpin(invocation: Invocation, ids: readonly string[], dryRun: boolean): Promise<undefined> {
  const { output, signal } = invocation
  await using opened = await invocation.openRepository({ dryRun })
  const context = maintenanceContext(opened.repository, invocation.who)
  const plan = await planUnpin(
    context,
    ids.map(id => id.replace(/^pins\//, '')),
    { signal },
  )
  if (!dryRun) await applyUnpin(context, plan, { signal })
  const pins = plan.pins.map(({ key, point = null, kind, host, modifiedAt }) => ({
    key,
    point,
    kind,
    host,
    modifiedAt,
  }))
  output.result({ pins, dryRun }, () => {
    for (const pin of plan.pins)
      output.line(
        `${describePin(pin, plan.storeNow)} ${dryRun ? 'would be' : 'was'} removed: ${pin.point === undefined ? 'it kept everything' : `it kept point ${pin.point}`}`,
      )
  })
  if (plan.pins.some(({ kind }) => kind === 'session'))
    output.message('a session whose pin is gone pins its point anew when it is resumed, if that is still there')
}
