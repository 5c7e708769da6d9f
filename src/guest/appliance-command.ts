/** The command line of the appliance. Pure: from paths to words. */
import { limits, MiB } from '../core/limits.ts'
import { type Accelerator, EMULATED_CPU } from '../recovery/accelerator.ts'
import { nbdUri } from '../recovery/exporter.ts'

/** The descriptor that QEMU finds the agent's port at: one of its parent's, so that nobody else can connect to it. */
export const AGENT_DESCRIPTOR = 3

export interface ApplianceCommand {
  readonly program: string
  readonly accelerator: Accelerator
  readonly kernel: string
  readonly root: string
  readonly nbdSocket: string
  /** Exports, in the order in which the appliance finds the disks. */
  readonly exports: readonly string[]
  /** The user and group to become; absent: whoever we are. */
  readonly user?: number
}

/**
 * setpriv and prlimit make the process what it is to be before there is a QEMU: without privileges and any way to new ones, ended
 * by the kernel when we end however we end, and unable to write more than `applianceOverlayBytes` to any file.
 */
export function applianceCommand(command: ApplianceCommand): readonly string[] {
  const { user } = command
  return [
    ...['prlimit', `--fsize=${limits.applianceOverlayBytes}`, '--core=0', '--'],
    ...['setpriv', '--no-new-privs', '--pdeathsig', 'KILL'],
    ...(user === undefined
      ? []
      : ['--reuid', `${user}`, '--regid', `${user}`, '--clear-groups', '--bounding-set=-all', '--inh-caps=-all']),
    ...['--', command.program, ...qemuArguments(command)],
  ]
}

function qemuArguments({ accelerator, kernel, root, nbdSocket, exports }: ApplianceCommand): readonly string[] {
  return [
    ...['-name', 'lifeboat-appliance', '-machine', 'pc,usb=off,vmport=off,hpet=off'],
    ...['-accel', accelerator === 'kvm' ? 'kvm' : 'tcg,thread=multi,tb-size=64'],
    ...['-cpu', accelerator === 'kvm' ? 'host' : EMULATED_CPU],
    ...['-m', `${limits.applianceMemoryBytes / MiB}`, '-smp', '1'],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-nic', 'none', '-no-reboot'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...['-kernel', kernel, '-initrd', root, '-append', KERNEL_COMMAND_LINE],
    // Memory that the guest has freed goes back to the host.
    ...['-device', 'virtio-balloon-pci,free-page-reporting=on,addr=0x2'],
    ...['-device', 'virtio-serial-pci,addr=0x3', '-chardev', `socket,id=agent,fd=${AGENT_DESCRIPTOR}`],
    ...['-device', 'virtserialport,chardev=agent,name=lifeboat.agent'],
    ...exports.flatMap((name, index) => diskArguments(nbdUri(nbdSocket, name), index)),
  ]
}

/**
 * Quiet, and without what costs an emulated processor time: ACPI, whose words for interrupts take a second for each device;
 * mitigations, which protect nobody here; and self-tests, which Debian has run.
 */
const KERNEL_COMMAND_LINE =
  'quiet loglevel=1 panic=-1 mitigations=off nokaslr cryptomgr.notests tsc=reliable no_timer_check random.trust_cpu=on i8042.noaux i8042.nokbd acpi=off pci=nomsi'

/**
 * Reads go to our export, which is read-only; what a replayed journal writes goes to a file that QEMU makes in TMPDIR and has
 * unlinked before the machine runs. Eight functions to a slot, so that there is room for 192 disks.
 */
function diskArguments(uri: string, index: number): string[] {
  const slot = 4 + Math.floor(index / 8)
  const address = `addr=0x${slot.toString(16)}.0x${index % 8},multifunction=on`
  const file = uri.replaceAll(',', ',,')
  return [
    ...['-drive', `if=none,id=disk${index},format=raw,snapshot=on,file=${file}`],
    ...['-device', `virtio-blk-pci,drive=disk${index},serial=d${index},${address}`],
  ]
}
