/** `session commit` and `session migrate`: the ways out of a session besides discarding it. */
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { commitCommand } from '../recovery/commit.ts'
import type { Fields } from '../recovery/control-protocol.ts'
import { migrateCommand } from '../recovery/migrate.ts'
import { type SessionCommands, sessionCommands } from '../recovery/session-commands.ts'
import type { Invocation } from './invocation.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { phasedBar } from './phased-bar.ts'
import { callSession } from './session-command.ts'
import { formatBytes, formatSeconds, parseRate } from './units.ts'

/** What can be asked of a session, wherever it is served. The backup path is loaded when it is needed. */
export const commandsOf = ({ surroundings, output }: Invocation): SessionCommands => ({
  ...sessionCommands,
  commit: commitCommand({
    backup: async request => (await import('../backup/backup-vm.ts')).backupVm(request),
    exporter: nbdExporter(surroundings.clock, output),
  }),
  migrate: migrateCommand,
})

export async function commitSession(invocation: Invocation, session: string): Promise<undefined> {
  const { output } = invocation
  const result = await withBar(invocation, { session, command: 'commit' }, ({ disk, bytesDone, bytesTotal }) => ({
    phase: String(disk),
    done: Number(bytesDone),
    total: Number(bytesTotal),
  }))
  output.result(result, () => {
    const disks = Array.isArray(result.disks) ? (result.disks as readonly Fields[]) : []
    const sum = (name: string) => disks.reduce((total, disk) => total + Number(disk[name] ?? 0), 0)
    output.line(
      `${result.point}: ${result.consistency}-consistent, committed in ${formatSeconds(Number(result.seconds))}, ${formatBytes(sum('bytesRead'))} read, ${formatBytes(sum('bytesStored'))} stored; the session goes on against it`,
    )
  })
  return undefined
}

export interface MigrateFlags {
  readonly to?: readonly string[]
  readonly limitRate?: string
}

export async function migrateSession(
  invocation: Invocation,
  session: string,
  { to = [], limitRate }: MigrateFlags,
): Promise<undefined> {
  const { output } = invocation
  if (to.length === 0) throw new LifeboatError('usage', 'where the disks go is missing', { hint: TARGET_HINT })
  const targets = to.map(parseTarget)
  const request = {
    targets,
    ...(limitRate !== undefined && { bytesPerSecond: parseRate(limitRate, '--limit-rate') }),
  }
  const result = await withBar(
    invocation,
    { session, command: 'migrate', request },
    ({ disk, phase, done, total }) => ({
      phase: phase === 'verify' ? `${disk}, comparing` : String(disk),
      done: Number(done),
      total: Number(total),
    }),
  )
  output.result(result, () => {
    for (const target of targets) output.line(`${target.disk ?? 'the disk'} is on ${target.path} now`)
    // Of an export nothing is told of what moved: no VM of ours did.
    const isVm = result.moved !== undefined
    const what = isVm ? 'its VM runs on. Remove what is left of it when the VM is off' : 'remove what is left of it'
    output.line(`session ${session} has ended; ${what}: lifeboat session discard ${session}`)
  })
  return undefined
}

interface Done {
  readonly phase: string
  readonly done: number
  readonly total: number
}

async function withBar(
  invocation: Invocation,
  call: { readonly session: string; readonly command: string; readonly request?: Fields },
  doneOf: (progress: Fields) => Done,
): Promise<Fields> {
  const { output } = invocation
  using bar = phasedBar(output)
  const progress = (told: Fields) => {
    const { phase, done, total } = doneOf(told)
    bar.update(phase, done, total, { say: formatBytes })
  }
  const { warnings, ...result } = await callSession(invocation, {
    ...call,
    commands: commandsOf(invocation),
    progress,
  }).catch(error => {
    bar.stop()
    const { session, command } = call
    if (invocation.signal.aborted)
      output.message(`the ${command} is taken back unless it is past that: lifeboat session show ${session}`)
    throw error
  })
  bar.stop()
  for (const warning of Array.isArray(warnings) ? warnings : []) output.warning(String(warning))
  return result
}

const TARGET_HINT = 'for each disk --to [DISK=]PATH[,format=raw|qcow2], for example --to vda=/var/lib/vm/web1.raw'

/** A comma in the path is written twice, as QEMU does. The other process may have another working directory. */
export function parseTarget(text: string): {
  readonly disk?: string
  readonly path: string
  readonly format: 'raw' | 'qcow2'
} {
  const [first = '', ...options] = text.replaceAll(',,', '\0').split(',')
  const named = /^(?<disk>[^/=]+)=(?<file>.+)$/s.exec(first)?.groups
  const file = (named?.file ?? first).replaceAll('\0', ',')
  let format: string = file.endsWith('.qcow2') ? 'qcow2' : 'raw'
  for (const option of options) {
    const [key, value = ''] = option.split('=', 2)
    if (key !== 'format')
      throw new LifeboatError('usage', `--to ${text}: '${option}' is not known`, { hint: TARGET_HINT })
    format = value
  }
  if (file === '' || (format !== 'raw' && format !== 'qcow2'))
    throw new LifeboatError('usage', `--to ${text} names no target`, { hint: TARGET_HINT })
  return { ...(named?.disk !== undefined && { disk: named.disk }), path: path.resolve(file), format }
}
