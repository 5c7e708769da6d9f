/** What a boot needs before QEMU can be started. */
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { bitmapName } from '../hypervisor/bitmap-name.ts'
import { chooseAccelerator, hostBootId } from './accelerator.ts'
import type { BootRequest } from './boot.ts'
import type { RunningExport } from './export.ts'
import { mustRun } from './external-tool.ts'
import { provideFirmware } from './firmware.ts'
import { checkOverlayRoom, createOverlay } from './overlay.ts'
import { type QemuCommand, qemuCommand } from './qemu-command.ts'
import { type Session, syncFile, syncFolder } from './session.ts'
import type { SessionState } from './session-state.ts'
import { step } from './session-step.ts'
import { diskFromPoint, vmFromPoint } from './vm-from-point.ts'

export interface BootPlan {
  /** What the state file learns before QEMU starts. */
  readonly changes: Pick<SessionState, 'disks' | 'sockets'> & { readonly qemu: NonNullable<SessionState['qemu']> }
  readonly warnings: readonly string[]
}

const PROGRAM = 'qemu-system-x86_64'

/** Whether a flag asks for a machine other than the one that the session has. */
export const isNewMachine = (request: BootRequest): boolean =>
  [request.memoryBytes, request.cpus, request.network, request.kernel, request.append, request.program].some(
    flag => flag !== undefined,
  ) ||
  (request.extra?.length ?? 0) > 0 ||
  (request.accelerator ?? 'auto') !== 'auto'

/** The machine that the session had: QEMU's command line as it was written down. */
export async function recordedPlan(session: Session, before: SessionState): Promise<BootPlan> {
  const { qemu } = before
  if (!qemu) throw new LifeboatError('internal', `session ${before.name} has no command line`)
  const { process: _, ...command } = qemu
  return {
    changes: { disks: before.disks, sockets: before.sockets, qemu: command },
    warnings: await roomFor(session, before.disks),
  }
}

const roomFor = ({ folder }: Session, disks: readonly { readonly size: number }[]) =>
  checkOverlayRoom(
    folder,
    disks.reduce((sum, disk) => sum + disk.size, 0),
  )

/** Everything but what keeps running: overlays (those of an earlier run of the session stay), firmware, command line. */
export async function planBoot(boot: BootRequest, session: Session, exported: RunningExport): Promise<BootPlan> {
  const { repository, signal, program = PROGRAM, ...request } = boot
  const { manifest } = exported.point
  const room = await roomFor(session, exported.disks)
  const { accelerator, reason } = await chooseAccelerator({
    wanted: request.accelerator ?? 'auto',
    program,
    stateDir: request.stateDir,
    runDir: session.runDir ?? session.folder,
    bootId: await hostBootId(),
    signal,
  })
  const nbdSocket = session.socketPath('nbd')
  const bitmap = bitmapName(repository.id, exported.point.id)
  const known = session.state()?.disks ?? []
  const disks = known.length > 0 ? known : await createOverlays(boot, session, exported, nbdSocket, bitmap)
  step('overlays')
  const sockets = {
    qmp: session.socketPath('qmp'),
    control: session.socketPath('control'),
    serial: session.socketPath('serial'),
    agent: session.socketPath('agent'),
  }
  const description = vmFromPoint(manifest)
  const command: QemuCommand = qemuCommand({
    description,
    disks: manifest.disks.map((disk, i) => ({
      name: disk.name,
      description: diskFromPoint(disk),
      overlay: disks[i]?.overlay?.path ?? '',
    })),
    nbdSocket,
    sockets,
    accelerator,
    machines: await namesIn(program, '-machine', signal),
    ...(accelerator === 'kvm' && { cpuModels: await namesIn(program, '-cpu', signal) }),
    network: request.network ?? { kind: 'none' },
    firmware: await provideFirmware(description.firmware, manifest.firmwareVariables, session.folder),
    memoryBytes: request.memoryBytes,
    cpus: request.cpus,
    kernel: request.kernel,
    append: request.append,
    extra: request.extra,
  })
  await syncFolder(session.folder)
  const slow = accelerator === 'tcg' && request.accelerator !== 'tcg' ? [`the guest is emulated: ${reason}`] : []
  return {
    changes: {
      disks,
      sockets: { nbd: nbdSocket, ...sockets },
      qemu: { program, arguments: command.arguments, accelerator },
    },
    warnings: [...room, ...slow, ...command.warnings],
  }
}

async function createOverlays(
  { signal }: BootRequest,
  { folder }: Session,
  { disks: exported }: RunningExport,
  nbdSocket: string,
  bitmap: string,
): Promise<SessionState['disks']> {
  const disks: SessionState['disks'][number][] = []
  for (const [i, { name, size }] of exported.entries()) {
    // Numbered: a disk's name may be anything.
    const file = path.join(folder, `disk${i}.qcow2`)
    await createOverlay({ file, nbdSocket, exportName: name, size, bitmap, signal })
    await syncFile(file)
    disks.push({ name, size, overlay: { path: file, format: 'qcow2', bitmap } })
  }
  return disks
}

/** The first words of QEMU's own list ('-machine help'). */
async function namesIn(program: string, option: string, signal: AbortSignal | undefined): Promise<ReadonlySet<string>> {
  const text = await mustRun(program, [option, 'help'], { signal })
  return new Set(text.split('\n').flatMap(line => /^(?:x86 )?([A-Za-z0-9._-]+)/.exec(line.trim())?.[1] ?? []))
}
