import path from 'node:path'
import type { Command } from 'commander'
import { type BackupRequest, type BackupResult, backupVm } from '../backup/backup-vm.ts'
import { isIntegrityError, LifeboatError, messageOf } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import type { Hypervisor } from '../hypervisor/hypervisor.ts'
import { listDamage } from '../repository/damage-marks.ts'
import { hasLostNodes } from '../repository/healing.ts'
import { renewalState } from '../repository/lock-ledgers.ts'
import { OVERDUE_RENEWAL } from '../repository/lock-policy.ts'
import type { OpenedRepository } from '../repository/open.ts'
import { changedSince } from './changed-since.ts'
import { showEstimate } from './estimate.ts'
import { estimateGuest } from './estimate-guest.ts'
import { makeFolder } from './host-files.ts'
import type { Invocation, OpenedRepository as Opened } from './invocation.ts'
import type { Output } from './output.ts'
import { phasedBar } from './phased-bar.ts'
import { resolvePoint } from './resolve-point.ts'
import { formatBytes, formatSeconds } from './units.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly qmp?: string
  readonly guestAgent?: string
  readonly image?: readonly string[]
  readonly full?: boolean
  readonly differential?: string
  readonly disk?: readonly string[]
  readonly fleecingDir?: string
  readonly ownDomain?: boolean
  readonly dryRun?: boolean
}

export const backupCommand = verb<Flags>({
  syntax: 'backup <vm>',
  description:
    'Capture a running QEMU guest (--qmp), or the images of a stopped VM (--image), as a new recovery point.',
  examples: [
    '--repo /srv/backup backup web1 --qmp /run/vm/web1.qmp --guest-agent /run/vm/web1.ga',
    '--repo /srv/backup backup web1 --image vda=/var/lib/vm/web1.qcow2,format=qcow2',
  ],
  options: (command: Command) =>
    command
      .option('--qmp <socket>', "the guest's QMP socket")
      .option('--guest-agent <socket>', "the guest agent's socket: the guest's filesystems are frozen for the instant")
      .option('--image <name=path>', 'NAME=PATH[,format=raw|qcow2], once for each disk', collect)
      .option('--disk <name>', 'only this disk, once for each', collect)
      .option('--full', 'read everything (what is known is still not stored again)')
      .option('--differential <point>', 'changes since this point')
      .option('--own-domain', 'keys of its own for this VM, from its first backup on: `key destroy` shreds it alone')
      .option(
        '--fleecing-dir <dir>',
        'where old contents wait during the backup, with room for what the guest overwrites',
      )
      .option('--limit-rate <rate>', 'bytes a second to the repository, for example 50MiB')
      .option('--dry-run', 'what it would store, what it would ask of the store, and what that costs; writes nothing'),
  async run(invocation, words, flags) {
    const { output, surroundings, signal } = invocation
    const vm = words[0] ?? ''
    if (flags.full && flags.differential)
      throw new LifeboatError('usage', '--full and --differential exclude each other', {
        hint: 'leave one of them out',
      })
    await using opened = await invocation.openRepository({ dryRun: flags.dryRun })
    if (flags.dryRun && flags.qmp !== undefined)
      return await estimateGuest(invocation, opened, vm, { ...flags, qmp: flags.qmp })
    await warnOfOverdueRenewal(invocation, opened.repository)
    await using hypervisor = await hypervisorOf(invocation, vm, flags)
    using bar = phasedBar(output)
    const result = await overDamage(output, {
      vm,
      hypervisor,
      repository: opened.repository,
      clock: surroundings.clock,
      random: surroundings.random,
      kind: await kindOf(opened.repository, vm, flags, signal),
      alone: flags.full && (await lostNodes(opened.repository, signal)) ? 'requested' : undefined,
      ownDomain: flags.ownDomain,
      disks: flags.disk,
      fleecingDir: await fleecingDir(invocation, flags),
      progress: ({ disk, doing, bytesDone, bytesTotal }) =>
        bar.update(doing === 'scan' ? `${disk}, comparing` : disk, bytesDone, bytesTotal, { say: formatBytes }),
      alarm: message => output.warning(message),
      signal,
    })
    bar.stop()
    if (flags.dryRun) showDryRun(invocation, opened, result)
    else output.result(result, () => printResult(invocation, result))
    return undefined
  },
})

/** Everything was done but the writing, so that only chance (which clean chunks are audited) and compression's ties differ. */
function showDryRun(invocation: Invocation, { meter, bytesKept }: Opened, result: BackupResult): void {
  const { point: _, ...document } = result
  showEstimate(invocation, { requests: meter.figures(), bytesKept: bytesKept() }, document, () =>
    printResult(invocation, result),
  )
}

/** Damage to the points before is no reason not to back up; it is the best reason to. */
async function overDamage(output: Output, request: BackupRequest): Promise<BackupResult> {
  try {
    return await backupVm(request)
  } catch (error) {
    if (!isIntegrityError(error) || request.alone || request.signal?.aborted) throw error
    output.warning(`${messageOf(error)}. The disks are read whole, and nothing is built upon the points before.`)
    return await backupVm({ ...request, kind: 'full', alone: 'base-gone' })
  }
}

/** A full backup shares no tree with points whose trees are damaged: it then stores anew, and so heals, all nodes. */
const lostNodes = async ({ reading }: OpenedRepository, signal: AbortSignal): Promise<boolean> =>
  await hasLostNodes(reading, await listDamage(reading.control, { signal }), { signal })

/** Nobody should find out on the day of the attack that the timer was never set. */
async function warnOfOverdueRenewal({ output, signal }: Invocation, { reading }: OpenedRepository): Promise<void> {
  const { lock, control, clock } = reading
  if (lock && (await renewalState(control, lock, clock.now(), { signal })).isOverdue) output.warning(OVERDUE_RENEWAL)
}

const collect = (value: string, before: readonly string[] = []): string[] => [...before, value]

async function hypervisorOf(invocation: Invocation, vm: string, flags: Flags): Promise<Hypervisor> {
  if ((flags.qmp === undefined) === (flags.image === undefined))
    throw new LifeboatError('usage', 'the source of the backup is missing, or named twice', {
      hint: 'name it: --qmp SOCKET for a running guest, or --image NAME=PATH for a stopped one',
    })
  const { clock, random } = invocation.surroundings
  const log = (message: string) => invocation.output.message(message)
  if (flags.qmp !== undefined) {
    const { qemuHypervisor } = await import('../hypervisor/qemu/qemu-hypervisor.ts')
    return qemuHypervisor({ qmp: flags.qmp, guestAgent: flags.guestAgent, clock, random, log })
  }
  const { imageHypervisor } = await import('../hypervisor/images.ts')
  const images = (flags.image ?? []).map(parseImage)
  const stateDir = path.join(invocation.stateDir, 'scan')
  return imageHypervisor({ vm, images, stateDir, clock, random, log, dryRun: flags.dryRun })
}

const IMAGE_HINT = 'write NAME=PATH[,format=raw|qcow2], for example vda=/var/lib/vm/web1.qcow2'

/** NAME=PATH[,format=raw|qcow2]; a comma in the path is written twice, as QEMU does. */
export function parseImage(text: string): { name: string; path: string; format: 'raw' | 'qcow2' } {
  const [first = '', ...options] = text.replaceAll(',,', '\0').split(',')
  const at = first.indexOf('=')
  const name = first.slice(0, Math.max(0, at))
  const file = first.slice(at + 1).replaceAll('\0', ',')
  let format: string = file.endsWith('.qcow2') ? 'qcow2' : 'raw'
  for (const option of options) {
    const [key, value = ''] = option.split('=', 2)
    if (key !== 'format')
      throw new LifeboatError('usage', `--image ${text}: '${option}' is not known`, { hint: IMAGE_HINT })
    format = value
  }
  if (!name || !file || (format !== 'raw' && format !== 'qcow2'))
    throw new LifeboatError('usage', `--image ${text} names no image`, { hint: IMAGE_HINT })
  return { name, path: file, format }
}

async function kindOf(repository: OpenedRepository, vm: string, flags: Flags, signal: AbortSignal) {
  if (flags.full) return 'full'
  if (flags.differential === undefined) return 'incremental'
  const text = flags.differential.includes('@') ? flags.differential : `${vm}@${flags.differential}`
  const { point } = await resolvePoint(repository, text, { signal })
  if (point.vm !== vm)
    throw new LifeboatError('usage', `${flags.differential} is a point of ${point.vm}, not of ${vm}`, {
      hint: `\`lifeboat points ${vm}\` lists those of ${vm}`,
    })
  const differentialTo: PointId = point.id
  return { differentialTo, changedSince: changedSince(repository, vm) }
}

async function fleecingDir(invocation: Invocation, flags: Flags): Promise<string> {
  const dir = path.resolve(flags.fleecingDir ?? path.join(invocation.stateDir, 'fleecing'))
  await makeFolder(dir, 'the folder for old contents (--fleecing-dir)')
  return dir
}

function printResult({ output }: Invocation, result: BackupResult): void {
  output.line(
    `${result.vm}@${result.point}: ${result.kind}, ${result.consistency}-consistent, ${formatSeconds(result.seconds)}`,
  )
  output.table(
    [
      { title: 'DISK' },
      { title: 'SIZE', align: 'right' },
      { title: 'READ', align: 'right' },
      { title: 'CHANGED', align: 'right' },
      { title: 'NEW', align: 'right' },
      { title: 'STORED', align: 'right' },
      { title: 'READ WHOLE BECAUSE' },
    ],
    result.disks.map(disk => [
      disk.name,
      ...[disk.size, disk.bytesRead, disk.bytesChanged, disk.bytesNew, disk.bytesStored].map(formatBytes),
      disk.reason ?? '',
    ]),
  )
  const { records, packs, failure } = result.healed
  if (records > 0) output.line(`healed: ${records} records of ${packs.length} damaged packs read again`)
  if (failure) output.warning(`not all damage could be healed, the next backup tries again: ${failure}`)
  for (const { name, reason } of result.omitted) output.message(`left out: ${name} (${reason})`)
}
