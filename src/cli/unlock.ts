import { maintenanceContext } from '../maintenance/maintenance.ts'
import { unlockLeases } from '../maintenance/unlock.ts'
import { gcProgress } from './gc-progress.ts'
import { verb } from './verb.ts'

const WORDS = {
  ended: 'has ended by itself',
  committed: 'had committed its point; only its lease was left',
  fenced: 'had died: nothing of it counts',
  alive: 'is under way, and was left alone',
} as const

export const unlockCommand = verb<object>({
  syntax: 'unlock',
  description:
    'End what died: watches each lease for its expiry (an hour), and fences those that nobody refreshes. Backups that run are left alone.',
  examples: ['--repo /srv/backup unlock'],
  async run(invocation) {
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
