/** The command line of a booted point. Pure: from the point's description and the session's paths to words. */
import { MiB } from '../core/limits.ts'
import type { VmDescription } from '../hypervisor/hypervisor.ts'
import { type Accelerator, EMULATED_CPU } from './accelerator.ts'
import { type BootDisk, diskArguments } from './qemu-disks.ts'
import { CONTROL_MONITOR } from './qemu-process.ts'
import { blockdev, commaSafe } from './qemu-words.ts'

export type Network =
  | { readonly kind: 'none' }
  | { readonly kind: 'user' }
  | { readonly kind: 'bridge'; readonly bridge: string }

export interface QemuCommandInput {
  readonly description: VmDescription
  readonly disks: readonly BootDisk[]
  /** The Unix socket of our exports. */
  readonly nbdSocket: string
  /** `control` is ours; `qmp` is free for the owner of the VM and for backups, since a QMP socket serves one client. */
  readonly sockets: { readonly qmp: string; readonly control: string; readonly serial: string; readonly agent: string }
  readonly accelerator: Accelerator
  /** Machine types that this QEMU knows. */
  readonly machines: ReadonlySet<string>
  /** CPU models that this QEMU knows, for KVM. */
  readonly cpuModels?: ReadonlySet<string>
  readonly network: Network
  readonly firmware?: { readonly code: string; readonly variables: string }
  readonly memoryBytes?: number
  readonly cpus?: number
  readonly kernel?: string
  readonly append?: string
  readonly extra?: readonly string[]
}

export interface QemuCommand {
  readonly arguments: readonly string[]
  /** What differs from the VM as it was, one sentence each. */
  readonly warnings: readonly string[]
}

const DEFAULT_MEMORY = 1024 * MiB

export function qemuCommand(input: QemuCommandInput): QemuCommand {
  const { description, accelerator, sockets, nbdSocket, kernel, append } = input
  const warnings: string[] = []
  const memory = Math.ceil((input.memoryBytes ?? description.memoryBytes ?? DEFAULT_MEMORY) / MiB)
  const words = [
    ...['-name', `guest=${commaSafe(description.name)}`],
    ...(description.uuid ? ['-uuid', description.uuid] : []),
    ...['-machine', machineWord(input, warnings)],
    ...['-accel', accelerator === 'kvm' ? 'kvm' : 'tcg,thread=multi,tb-size=512'],
    ...['-cpu', cpuWord(input, warnings)],
    ...['-m', `${memory}`, '-smp', `${input.cpus ?? description.cpus ?? 1}`],
    // Stopped until we watch for the first read, which must be the guest's and not QEMU's own look at the boot sector.
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-S'],
    ...socket('control', sockets.control, '-mon', CONTROL_MONITOR),
    ...socket('qmp', sockets.qmp, '-mon', 'chardev=qmp,mode=control'),
    ...socket('serial', sockets.serial, '-serial', 'chardev:serial'),
    ...firmwareWords(input),
    ...diskArguments(input.disks, { nbdSocket, isQ35: isQ35(input), directKernel: kernel !== undefined, warnings }),
    ...networkWords(input),
    ...['-device', 'virtio-serial-pci,id=lifeboat-agent'],
    ...socket('agent', sockets.agent, '-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'),
    ...(kernel === undefined ? [] : ['-kernel', kernel]),
    ...(append === undefined ? [] : ['-append', append]),
    ...(input.extra ?? []),
  ]
  return { arguments: words, warnings }
}

const socket = (id: string, path: string, ...use: readonly string[]): string[] => [
  ...['-chardev', `socket,id=${id},path=${commaSafe(path)},server=on,wait=off`],
  ...use,
]

const isQ35 = ({ description }: QemuCommandInput): boolean => /q35/.test(description.machine ?? '')

/** The machine as it was, or the newest of its family where this QEMU does not have that version. */
function machineWord({ description, machines, firmware, ...rest }: QemuCommandInput, warnings: string[]): string {
  const wanted = description.machine
  const family = wanted === undefined ? 'pc' : /q35/.test(wanted) ? 'q35' : 'pc'
  const type = wanted !== undefined && machines.has(wanted) ? wanted : family
  if (wanted !== undefined && type !== wanted) warnings.push(`this QEMU has no machine ${wanted}: ${type} is used`)
  if (!firmware) return type
  const secure = /secboot|\.ms\./.test(firmware.code) && isQ35({ description, machines, firmware, ...rest })
  return `${type}${secure ? ',smm=on' : ''},pflash0=firmware-code,pflash1=firmware-variables`
}

function cpuWord({ accelerator, description, cpuModels }: QemuCommandInput, warnings: string[]): string {
  const wanted = description.cpuModel
  // Emulation has one model that is never less than what a guest had; what KVM offers depends on this host's processor.
  if (accelerator === 'tcg') return wanted === undefined ? EMULATED_CPU : 'max'
  if (wanted === undefined || wanted === 'host' || wanted === 'max') return 'host'
  if (cpuModels?.has(wanted)) return commaSafe(wanted)
  warnings.push(`this QEMU has no CPU model ${wanted}: the host's is used`)
  return 'host'
}

function firmwareWords({ firmware }: QemuCommandInput): string[] {
  if (!firmware) return []
  const node = (name: string, filename: string, readOnly: boolean) =>
    blockdev({
      driver: 'raw',
      'node-name': name,
      'read-only': readOnly,
      file: { driver: 'file', filename, 'read-only': readOnly },
    })
  return [
    ...node('firmware-code', firmware.code, true),
    ...node('firmware-variables', firmware.variables, false),
    ...(/secboot|\.ms\./.test(firmware.code) ? ['-global', 'driver=cfi.pflash01,property=secure,value=on'] : []),
  ]
}

/**
 * The NICs are there with their MAC addresses, so that the guest's names and licences hold, but end nowhere unless a network
 * was asked for; then the first one does. No boot ROM: nobody boots a recovered disk from the network.
 */
function networkWords({ description, network }: QemuCommandInput): string[] {
  const nics = description.nics ?? []
  const words: string[] = []
  const backend =
    network.kind === 'user' ? 'user' : network.kind === 'bridge' ? `bridge,br=${commaSafe(network.bridge)}` : undefined
  if (backend !== undefined) words.push('-netdev', `${backend},id=net0`)
  for (const [i, { model, mac }] of (nics.length > 0
    ? nics
    : backend
      ? [{ model: undefined, mac: undefined }]
      : []
  ).entries()) {
    const parts = [
      nicModel(model),
      ...(backend !== undefined && i === 0 ? ['netdev=net0'] : []),
      ...(mac ? [`mac=${commaSafe(mac)}`] : []),
    ]
    words.push('-device', [...parts, 'romfile='].join(','))
  }
  return words
}

/** QOM names virtio devices by their parts: 'virtio-net-pci' may be reported as 'virtio-net-device' or with a transitional suffix. */
const nicModel = (model: string | undefined): string =>
  model === undefined || /^virtio-net/.test(model) || !/^[a-z0-9_-]+$/i.test(model) ? 'virtio-net-pci' : model
