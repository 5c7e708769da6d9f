/** The disks of a booted point: our export below, a qcow2 overlay above, the device with the bus, name and serial of old. */
import type { DiskDescription } from '../hypervisor/hypervisor.ts'
import { blockdev, commaSafe } from './qemu-words.ts'

export interface BootDisk {
  /** Also the export's name. */
  readonly name: string
  readonly description: Partial<DiskDescription>
  /** The qcow2 file that takes the guest's writes. */
  readonly overlay: string
}

export interface DiskWordsContext {
  readonly nbdSocket: string
  readonly isQ35: boolean
  /** A kernel that is given directly takes boot index 0. */
  readonly directKernel: boolean
  readonly warnings: string[]
}

/** Ten minutes without our server are a wait for the guest; after them `rerror=stop` pauses the VM, and nothing is lost. */
const RECONNECT_SECONDS = 600

export function diskArguments(disks: readonly BootDisk[], context: DiskWordsContext): string[] {
  const nodes = disks.flatMap((disk, i) => diskNodes(disk, i, context.nbdSocket))
  const buses = disks.map(disk => busOf(disk, context))
  const bootIndexes = bootIndexesOf(disks, context.directKernel)
  const controllers = [
    ...(buses.includes('scsi') ? ['-device', 'virtio-scsi-pci,id=lifeboat-scsi'] : []),
    ...(buses.includes('usb') ? ['-device', 'qemu-xhci,id=lifeboat-usb'] : []),
  ]
  let ideCount = 0
  const devices = disks.flatMap((disk, i) => {
    const bus = buses[i] ?? 'virtio-blk'
    const slot = bus === 'ide' ? ideCount++ : 0
    return ['-device', deviceWord(disk, i, bus, slot, bootIndexes[i], context)]
  })
  return [...nodes, ...controllers, ...devices]
}

function diskNodes({ name, overlay }: BootDisk, i: number, nbdSocket: string): string[] {
  return [
    ...blockdev({
      driver: 'nbd',
      'node-name': `point${i}`,
      server: { type: 'unix', path: nbdSocket },
      export: name,
      'read-only': true,
      'reconnect-delay': RECONNECT_SECONDS,
    }),
    ...blockdev({ driver: 'file', 'node-name': `overlay${i}-file`, filename: overlay, discard: 'unmap' }),
    ...blockdev({
      driver: 'qcow2',
      'node-name': `overlay${i}`,
      file: `overlay${i}-file`,
      backing: `point${i}`,
      discard: 'unmap',
    }),
  ]
}

type Bus = 'virtio-blk' | 'scsi' | 'ide' | 'nvme' | 'usb'

function busOf({ name, description }: BootDisk, { warnings }: DiskWordsContext): Bus {
  const bus = description.bus
  if (bus === undefined || bus === 'virtio-blk') return 'virtio-blk'
  if (bus === 'scsi' || bus === 'ide' || bus === 'nvme' || bus === 'usb') return bus
  warnings.push(`disk ${name} was on a '${bus}' bus, which is not offered: it is on virtio-blk now`)
  return 'virtio-blk'
}

/** As described; where no disk has one, the first disk of the point boots first. */
function bootIndexesOf(disks: readonly BootDisk[], directKernel: boolean): readonly (number | undefined)[] {
  const described = disks.map(({ description }) => description.bootIndex)
  const indexes = described.some(index => index !== undefined) ? described : disks.map((_, i) => i)
  return directKernel ? indexes.map(index => (index === undefined ? undefined : index + 1)) : indexes
}

function deviceWord(
  disk: BootDisk,
  i: number,
  bus: Bus,
  ideSlot: number,
  bootIndex: number | undefined,
  { isQ35, warnings }: DiskWordsContext,
): string {
  const serial = disk.description.serial
  const common = [
    `drive=overlay${i}`,
    ...idOf(disk.name, warnings),
    ...(bootIndex === undefined ? [] : [`bootindex=${bootIndex}`]),
  ]
  const withSerial = serial === undefined ? [] : [`serial=${commaSafe(serial)}`]
  // A lost repository or a full overlay stops the VM, which goes on later; an error told to the guest would be believed.
  const stopping = ['rerror=stop', 'werror=stop']
  switch (bus) {
    case 'virtio-blk':
      return ['virtio-blk-pci', ...common, ...withSerial, ...stopping, 'discard=on'].join(',')
    case 'scsi':
      return ['scsi-hd', 'bus=lifeboat-scsi.0', ...common, ...withSerial, ...stopping].join(',')
    case 'usb':
      return ['usb-storage', 'bus=lifeboat-usb.0', ...common, ...withSerial, ...stopping].join(',')
    case 'ide': {
      const place = isQ35 ? `bus=ide.${ideSlot}` : `bus=ide.${ideSlot >> 1},unit=${ideSlot & 1}`
      return ['ide-hd', place, ...common, ...withSerial, ...stopping].join(',')
    }
    case 'nvme':
      // The device insists on a serial number, and has no error policy.
      warnings.push(
        `disk ${disk.name} is nvme, which QEMU cannot stop at an error: the guest sees one when the repository is away for longer than --retry-for, or when its writes find no space`,
      )
      return ['nvme', ...common, `serial=${commaSafe(serial ?? disk.name.slice(0, 20))}`].join(',')
  }
}

/** QEMU's ids begin with a letter. Other names cannot have been device ids, only names of plain images. */
function idOf(name: string, warnings: string[]): string[] {
  if (/^[A-Za-z][A-Za-z0-9._-]*$/.test(name)) return [`id=${name}`]
  warnings.push(`'${name}' cannot be a device id: a backup of this VM will see a new disk`)
  return []
}
