/**
 * A capture that describes the VM as its point did. A recovered guest may run emulated, with less memory or on another bus, and
 * its next point is to boot as what it was all the same. Firmware variables are those of now.
 */
import type { Capture, CapturedDisk, Hypervisor, VmDescription } from '../hypervisor/hypervisor.ts'
import type { Manifest } from '../repository/repository.ts'
import { diskFromPoint, vmFromPoint } from './vm-from-point.ts'

export function described(hypervisor: Hypervisor, manifest: Manifest): Hypervisor {
  return {
    async capture(request) {
      const capture = await hypervisor.capture(request)
      return {
        vm: machineOf(manifest, capture.vm),
        consistency: capture.consistency,
        takenAt: capture.takenAt,
        disks: capture.disks.map(disk => diskOf(manifest, disk)),
        omitted: capture.omitted,
        broken: capture.broken,
        committed: options => capture.committed(options),
        [Symbol.asyncDispose]: () => capture[Symbol.asyncDispose](),
      } satisfies Capture
    },
    [Symbol.asyncDispose]: () => hypervisor[Symbol.asyncDispose](),
  }
}

function machineOf(manifest: Manifest, { firmware }: VmDescription): VmDescription {
  const vm = vmFromPoint(manifest)
  const variables = firmware?.variables ?? manifest.firmwareVariables
  return { ...vm, firmware: { kind: 'bios', ...vm.firmware, ...(variables && { variables }) } }
}

function diskOf(manifest: Manifest, disk: CapturedDisk): CapturedDisk {
  const { description } = disk
  const before = manifest.disks.find(({ name }) => name === description.name)
  if (!before) return disk
  const { name, bus, bootIndex, serial } = { ...description, ...defined(diskFromPoint(before)) }
  return { ...disk, description: { ...description, name, ...defined({ bus, bootIndex, serial }) } }
}

/** Without the members that are undefined, which would hide others. */
const defined = <T extends object>(value: T): Partial<T> =>
  Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as Partial<T>
