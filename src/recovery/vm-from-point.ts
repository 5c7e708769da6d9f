/** The VM's description as a point stored it: JSON from another host, read field by field; what is not as expected is left out. */
import type { DiskDescription, VmDescription } from '../hypervisor/hypervisor.ts'
import type { Manifest, ManifestDisk } from '../repository/repository.ts'

type Fields = Readonly<Record<string, unknown>>
const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const text = (from: Fields, name: string, pattern = /^[^\0]{1,4096}$/s): string | undefined => {
  const value = from[name]
  return typeof value === 'string' && pattern.test(value) ? value : undefined
}
const count = (from: Fields, name: string, max: number): number | undefined => {
  const value = from[name]
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value <= max ? value : undefined
}

const WORD = /^[A-Za-z0-9._+-]{1,100}$/
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i

export function vmFromPoint({ vm, description }: Manifest): VmDescription {
  const firmware = isFields(description.firmware) ? description.firmware : {}
  const kind = firmware.kind === 'uefi' ? 'uefi' : 'bios'
  const codePath = text(firmware, 'codePath')
  const nics = Array.isArray(description.nics) ? description.nics.filter(isFields) : []
  return {
    name: vm,
    uuid: text(description, 'uuid', UUID),
    machine: text(description, 'machine', WORD),
    // 64 TiB and 4,096 processors: more than any QEMU takes.
    memoryBytes: count(description, 'memoryBytes', 2 ** 46) || undefined,
    cpus: count(description, 'cpus', 4096) || undefined,
    cpuModel: text(description, 'cpuModel', WORD),
    firmware: { kind, ...(codePath !== undefined && { codePath }) },
    nics: nics.flatMap(nic => {
      const mac = text(nic, 'mac', MAC)
      return mac === undefined ? [] : [{ model: text(nic, 'model', WORD), mac }]
    }),
  }
}

export function diskFromPoint({ name, description }: ManifestDisk): Partial<DiskDescription> {
  return {
    name,
    bus: text(description, 'bus', WORD),
    bootIndex: count(description, 'bootIndex', 2 ** 31 - 1),
    serial: text(description, 'serial', /^[\x20-\x7e]{1,256}$/),
  }
}
