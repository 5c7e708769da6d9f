import { LifeboatError } from '../core/errors.ts'
import { addHold, removeHold } from '../maintenance/hold.ts'
import { maintenanceContext } from '../maintenance/maintenance.ts'
import { type Hold, listHolds } from '../repository/holds.ts'
import { holdKey } from '../repository/object-keys.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'
import { phasedBar } from './phased-bar.ts'
import { resolvePoint } from './resolve-point.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly reason?: string
  readonly hold?: string
}

export const holdCommand = verb<Flags>({
  syntax: 'hold <action> [point]',
  description:
    'add POINT --reason TEXT: nobody can forget it until the hold is removed. remove POINT: lifts it (--hold ID where there are several). list [POINT]: who holds what, and why.',
  examples: [
    '--repo /srv/backup hold add web1@latest --reason "audit 2026"',
    '--repo /srv/backup hold list',
    '--repo /srv/backup hold remove web1@1f3a',
  ],
  options: command =>
    command.option('--reason <text>', 'of add').option('--hold <id>', 'of remove: this one, as list shows it'),
  async run(invocation, [action = '', text], flags) {
    if (action === 'list') return await list(invocation, text)
    if (action === 'add' && text !== undefined) return await add(invocation, text, flags)
    if (action === 'remove' && (text !== undefined || flags.hold !== undefined))
      return await remove(invocation, text, flags)
    if (action === 'add' || action === 'remove')
      throw new LifeboatError('usage', `hold ${action} needs a point`, {
        hint: `for example: lifeboat hold ${action} web1@latest`,
      })
    throw new LifeboatError('usage', `hold ${action} is not known`, { hint: 'add, remove and list are' })
  },
})

async function add(invocation: Invocation, text: string, { reason, hold }: Flags): Promise<undefined> {
  const { output, signal, who } = invocation
  if (reason === undefined || hold !== undefined)
    throw new LifeboatError('usage', 'hold add needs --reason, and chooses its id itself', {
      hint: 'say why, for example --reason "audit 2026, ask Jane"',
    })
  await using opened = await invocation.openRepository()
  const { point } = await resolvePoint(opened.repository, text, { signal })
  using bar = phasedBar(output)
  const context = maintenanceContext(opened.repository, who)
  const id = await addHold(context, point, reason, { progress: bar.update, signal })
  bar.stop()
  output.result({ holds: [{ id, point: point.id, vm: point.vm, who, reason }] }, () =>
    output.line(`${point.vm}@${point.id} is held (${id})`),
  )
}

async function remove(invocation: Invocation, text: string | undefined, { hold }: Flags): Promise<undefined> {
  const { output, signal, who } = invocation
  if (hold !== undefined && !/^[0-9a-f]{16}$/.test(hold))
    throw new LifeboatError('usage', `'${hold.slice(0, 40)}' is no id of a hold`, {
      hint: '`lifeboat hold list` shows them',
    })
  await using opened = await invocation.openRepository()
  const { repository } = opened
  const point = text === undefined ? undefined : (await resolvePoint(repository, text, { signal })).point
  const { holds, damaged } = await listHolds(repository.reading.control, { signal })
  const chosen = holds.filter(({ id, point: held }) => (hold ?? id) === id && (point?.id ?? held) === held)
  const [only] = chosen
  if (only && chosen.length > 1) throw several(chosen)
  // What cannot be read has no point, and can be removed all the same, by its id alone.
  const isDamaged = !only && point === undefined && hold !== undefined && damaged.includes(holdKey(hold))
  const id = only?.id ?? (isDamaged ? hold : undefined)
  if (id === undefined) throw noSuchHold(text ?? hold ?? '')
  using bar = phasedBar(output)
  const context = maintenanceContext(repository, who)
  await removeHold(context, { id, point: only?.point }, { progress: bar.update, signal })
  bar.stop()
  output.result({ holds: [{ id, point: only?.point, who: only?.who, reason: only?.reason }] }, () =>
    output.line(`hold ${id} is lifted`),
  )
}

async function list(invocation: Invocation, text: string | undefined): Promise<number> {
  const { output, signal } = invocation
  await using opened = await invocation.openRepository()
  const { repository } = opened
  const point = text === undefined ? undefined : (await resolvePoint(repository, text, { signal })).point
  const { holds, damaged } = await listHolds(repository.reading.control, { signal })
  const points = await repository.points({ all: true, signal })
  const rows = holds
    .filter(({ point: held }) => held === (point?.id ?? held))
    .map(hold => ({ ...hold, vm: points.find(({ id }) => id === hold.point)?.vm }))
  output.result({ holds: rows }, () =>
    rows.length === 0
      ? output.line('no holds')
      : output.table(
          [{ title: 'HOLD' }, { title: 'POINT' }, { title: 'SINCE' }, { title: 'BY' }, { title: 'REASON' }],
          rows.map(({ id, vm, point: held, created, who, reason }) => [
            id,
            vm === undefined ? held : `${vm}@${held}`,
            created?.toISOString() ?? '',
            who,
            reason,
          ]),
        ),
  )
  for (const key of damaged) output.warning(`${key} does not authenticate: which point it holds is not known`)
  return damaged.length === 0 ? exitCode.done : exitCode.integrity
}

const several = (holds: readonly Hold[]): LifeboatError =>
  new LifeboatError('ambiguous', `${holds.length} holds are on this point`, {
    details: { holds: holds.map(({ id }) => id) },
    hint: `Say which with --hold: ${holds.map(({ id, who, reason }) => `${id} (${who}: ${reason})`).join(', ')}.`,
  })

const noSuchHold = (what: string): LifeboatError =>
  new LifeboatError('usage', `there is no such hold: ${what.slice(0, 300)}`, {
    hint: '`lifeboat hold list` shows them',
  })
