/** What the guest is made of, asked of QEMU: enough that an old point boots as what it was. What QEMU does not say is left out. */
import type { DiskDescription, OmittedDisk, VmDescription } from '../hypervisor.ts'
import type { AttachedDisk } from './block-nodes.ts'
import { asList, asObject, optionalText, textOf } from './json.ts'
import { isQmpError, type QmpClient } from './qmp.ts'

interface QomChild {
  readonly path: string
  readonly type: string
}

const CONTAINERS = ['/machine/peripheral', '/machine/peripheral-anon', '/machine/unattached']
const CHILD = /^child<(.+)>$/

/** Undefined where the object or property is unknown to this QEMU. */
async function qomGet(qmp: QmpClient, path: string, property: string): Promise<unknown> {
  try {
    return await qmp.execute('qom-get', { path, property })
  } catch (error) {
    if (isQmpError(error)) return undefined
    throw error
  }
}

async function qomText(qmp: QmpClient, path: string, property: string): Promise<string | undefined> {
  const value = await qomGet(qmp, path, property)
  return typeof value === 'string' && value !== '' ? value : undefined
}

async function qomChildren(qmp: QmpClient, path: string): Promise<QomChild[]> {
  return asList(await qmp.execute('qom-list', { path })).flatMap(entry => {
    const type = CHILD.exec(textOf(entry, 'type'))?.[1]
    return type === undefined ? [] : [{ path: `${path}/${textOf(entry, 'name')}`, type }]
  })
}

const NIC = /(^virtio-net|net-|^e1000|^i8255|^rtl8139|^ne2k|^pcnet|^vmxnet|^igb|^tulip|usb-net)/

export interface MachineParts {
  readonly vm: VmDescription
  /** Storage that QEMU only passes through: no block layer, nothing to capture. */
  readonly passThrough: readonly OmittedDisk[]
}

export async function describeMachine(qmp: QmpClient): Promise<MachineParts> {
  const { vm: identity } = await describeIdentity(qmp)
  const devices = (await Promise.all(CONTAINERS.map(path => qomChildren(qmp, path)))).flat()
  const nics: { model: string; mac: string }[] = []
  for (const { path, type } of devices) {
    if (!NIC.test(type)) continue
    const mac = await qomText(qmp, path, 'mac')
    if (mac !== undefined) nics.push({ model: type, mac })
  }
  const passThrough = devices
    .filter(({ type }) => /^vhost-(user-)?(blk|scsi)/.test(type))
    .map(({ path }) => ({ name: path.slice(path.lastIndexOf('/') + 1), reason: 'pass-through' as const }))
  return { vm: { ...identity, ...(nics.length > 0 && { nics }) }, passThrough }
}

async function describeIdentity(qmp: QmpClient): Promise<{ vm: VmDescription }> {
  const { major, minor, micro } = qmp.version
  const name = optionalText(asObject(await qmp.execute('query-name')), 'name')
  const uuid = optionalText(asObject(await qmp.execute('query-uuid')), 'UUID')
  const machine = await qomText(qmp, '/machine', 'type')
  const cpus = asList(await qmp.execute('query-cpus-fast'))
  const firstCpu = optionalText(cpus[0], 'qom-path')
  const cpuType = firstCpu === undefined ? undefined : await qomText(qmp, firstCpu, 'type')
  const memory = asObject(await qmp.execute('query-memory-size-summary'))
  const bytes = (field: string) => (typeof memory[field] === 'number' ? memory[field] : 0)
  return {
    vm: {
      name: name ?? '',
      ...(uuid && !/^[0-]+$/.test(uuid) && { uuid }),
      ...(machine && { machine: machine.replace(/-machine$/, '') }),
      memoryBytes: bytes('base-memory') + bytes('plugged-memory'),
      cpus: cpus.length,
      ...(cpuType && { cpuModel: cpuType.replace(/-[a-z0-9_]+-cpu$/, '') }),
      hypervisor: { kind: 'qemu', version: `${major}.${minor}.${micro}` },
    },
  }
}

const BUSES: readonly (readonly [RegExp, string])[] = [
  [/^virtio-blk/, 'virtio-blk'],
  [/^scsi-/, 'scsi'],
  [/^ide-/, 'ide'],
  [/^nvme/, 'nvme'],
  [/^usb-/, 'usb'],
  [/^sd-card/, 'sd'],
  [/^xen-/, 'xen'],
]

export async function describeDisk(
  qmp: QmpClient,
  disk: AttachedDisk,
): Promise<DiskDescription & { readonly passThrough: boolean }> {
  const type = (await qomText(qmp, disk.path, 'type')) ?? ''
  // For virtio the front end (…/vdata) holds the boot index, the back end (…/vdata/virtio-backend) the rest.
  const front = disk.path.replace(/\/virtio-backend$/, '')
  const bootIndex = await qomGet(qmp, front, 'bootindex')
  const serial = await qomText(qmp, disk.path, 'serial')
  const bus = BUSES.find(([pattern]) => pattern.test(type))?.[1]
  return {
    name: disk.name,
    size: disk.size,
    format: disk.format,
    ...(bus && { bus }),
    ...(typeof bootIndex === 'number' && bootIndex >= 0 && { bootIndex }),
    ...(serial !== undefined && { serial }),
    passThrough: /^scsi-(block|generic)/.test(type),
  }
}
