/** What a boot needs before QEMU can be started. */
import path from 'node:path'
import { bitmapName } from '../hypervisor/bitmap-name.ts'
import { type Accelerator, chooseAccelerator, hostBootId } from './accelerator.ts'
import type { BootRequest } from './boot.ts'
import type { RunningExport } from './export.ts'
import { mustRun } from './external-tool.ts'
import { provideFirmware } from './firmware.ts'
import { checkOverlayRoom, createOverlay } from './overlay.ts'
import { type QemuCommand, qemuCommand } from './qemu-command.ts'
import type { Session } from './session.ts'
import type { SessionState } from './session-state.ts'
import { diskFromPoint, vmFromPoint } from './vm-from-point.ts'

export interface BootPlan {
  readonly command: QemuCommand
  /** 'starting'. */
  readonly state: SessionState
  readonly accelerator: Accelerator
  readonly warnings: readonly string[]
}

/** Everything but what keeps running: overlays (those of an earlier run of the session stay), firmware, command line, first state. */
export async function planBoot(
  boot: BootRequest,
  session: Session,
  exported: RunningExport,
  program: string,
): Promise<BootPlan> {
  const { repository, clock, signal, ...request } = boot
  const { manifest } = exported.point
  const bootId = await hostBootId()
  const room = await checkOverlayRoom(
    session.folder,
    exported.disks.reduce((sum, disk) => sum + disk.size, 0),
  )
  const { accelerator, reason } = await chooseAccelerator({
    wanted: request.accelerator ?? 'auto',
    program,
    stateDir: request.stateDir,
    runDir: session.runDir ?? session.folder,
    bootId,
    signal,
  })
  const nbdSocket = session.socketPath('nbd')
  const bitmap = bitmapName(repository.id, exported.point.id)
  const overlays = session.state()?.disks ?? (await createOverlays(boot, session, exported, nbdSocket, bitmap))
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
      overlay: overlays[i]?.overlay?.path ?? '',
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
  const now = clock.now().toISOString()
  const state: SessionState = {
    name: session.name,
    kind: 'boot',
    state: 'starting',
    repository: { url: repository.store.url, id: repository.id },
    point: {
      id: exported.point.id,
      key: exported.point.key,
      vm: manifest.vm,
      ...(exported.point.pinId !== undefined && { pin: exported.point.pinId }),
    },
    created: session.state()?.created ?? now,
    updated: now,
    bootId,
    disks: overlays,
    sockets: { nbd: nbdSocket, ...sockets },
    ...(session.runDir !== undefined && { runDir: session.runDir }),
    qemu: { program, arguments: command.arguments, accelerator },
    figures: {},
  }
  const unpinned = exported.point.pinned ? [] : ['the point could not be pinned: it is safe from gc for its grace only']
  const slow = accelerator === 'tcg' && request.accelerator !== 'tcg' ? [`the guest is emulated: ${reason}`] : []
  return { command, state, accelerator, warnings: [...unpinned, ...room, ...slow, ...command.warnings] }
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
    disks.push({ name, size, overlay: { path: file, format: 'qcow2', bitmap } })
  }
  return disks
}

/** The first words of QEMU's own list ('-machine help'). */
async function namesIn(program: string, option: string, signal: AbortSignal | undefined): Promise<ReadonlySet<string>> {
  const text = await mustRun(program, [option, 'help'], { signal })
  return new Set(text.split('\n').flatMap(line => /^(?:x86 )?([A-Za-z0-9._-]+)/.exec(line.trim())?.[1] ?? []))
}
