import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MiB } from '../../../src/core/limits.ts'
import { type QemuCommandInput, qemuCommand } from '../../../src/recovery/qemu-command.ts'
import type { BootDisk } from '../../../src/recovery/qemu-disks.ts'
import { diskFromPoint, vmFromPoint } from '../../../src/recovery/vm-from-point.ts'
import { MemoryChunkSource } from '../../doubles/chunk-source.ts'
import { memoryPoint } from '../../doubles/recovery-point.ts'

const disk = (name: string, description: BootDisk['description'] = {}): BootDisk => ({
  name,
  description,
  overlay: `/s/${name},1.qcow2`,
})
const command = (input: Partial<QemuCommandInput> = {}) =>
  qemuCommand({
    description: { name: 'web1' },
    disks: [disk('vda')],
    nbdSocket: '/s/nbd.sock',
    sockets: { qmp: '/s/qmp.sock', control: '/s/control.sock', serial: '/s/serial.sock', agent: '/s/agent.sock' },
    accelerator: 'tcg',
    machines: new Set(['pc', 'q35', 'pc-i440fx-7.2', 'pc-q35-7.2']),
    network: { kind: 'none' },
    ...input,
  })
/** The values of an option, in order. */
const valuesOf = (words: readonly string[], option: string) =>
  words.flatMap((word, i) => (words[i - 1] === option ? [word] : []))
const devices = (input: Partial<QemuCommandInput>) => valuesOf(command(input).arguments, '-device')

test('without a description: emulated, one disk, no network, stopped until we watch', () => {
  const { arguments: words, warnings } = command()
  assert.deepEqual(warnings, [])
  assert.deepEqual(valuesOf(words, '-machine'), ['pc'])
  assert.deepEqual(valuesOf(words, '-accel'), ['tcg,thread=multi,tb-size=512'])
  assert.deepEqual(valuesOf(words, '-cpu'), ['max,-erms,-fsrm'])
  assert.deepEqual(valuesOf(words, '-m'), ['1024'])
  assert.ok(words.includes('-S') && words.includes('-nodefaults'))
  assert.equal(words.join(' ').includes('netdev'), false)
  assert.deepEqual(
    valuesOf(words, '-blockdev').map(node => JSON.parse(node)),
    [
      {
        driver: 'nbd',
        'node-name': 'point0',
        server: { type: 'unix', path: '/s/nbd.sock' },
        export: 'vda',
        'read-only': true,
        'reconnect-delay': 600,
      },
      { driver: 'file', 'node-name': 'overlay0-file', filename: '/s/vda,1.qcow2', discard: 'unmap' },
      { driver: 'qcow2', 'node-name': 'overlay0', file: 'overlay0-file', backing: 'point0', discard: 'unmap' },
    ],
  )
  assert.equal(
    valuesOf(words, '-device')[0],
    'virtio-blk-pci,drive=overlay0,id=vda,bootindex=0,rerror=stop,werror=stop,discard=on',
  )
})

test('the VM is what it was: machine, memory, processors, identity, buses, boot order, serials', () => {
  const { arguments: words, warnings } = command({
    description: {
      name: 'web,1',
      uuid: '11111111-2222-3333-4444-555555555555',
      machine: 'pc-q35-7.2',
      memoryBytes: 768 * MiB,
      cpus: 3,
      cpuModel: 'qemu64',
    },
    disks: [
      disk('vda', { bootIndex: 2, serial: 'a,b' }),
      disk('sda', { bus: 'scsi', bootIndex: 1 }),
      disk('hda', { bus: 'ide' }),
      disk('hdb', { bus: 'ide' }),
      disk('nv', { bus: 'nvme' }),
      disk('stick', { bus: 'usb' }),
    ],
  })
  assert.equal(warnings.length, 1)
  assert.match(warnings[0] ?? '', /^disk nv is nvme, which QEMU cannot stop at an error/)
  assert.deepEqual(valuesOf(words, '-name'), ['guest=web,,1'])
  assert.deepEqual(valuesOf(words, '-machine'), ['pc-q35-7.2'])
  assert.deepEqual([valuesOf(words, '-m'), valuesOf(words, '-smp')], [['768'], ['3']])
  assert.deepEqual(valuesOf(words, '-cpu'), ['max'], 'never less than the model that the point names')
  assert.deepEqual(valuesOf(words, '-uuid'), ['11111111-2222-3333-4444-555555555555'])
  assert.deepEqual(valuesOf(words, '-device').slice(0, 8), [
    'virtio-scsi-pci,id=lifeboat-scsi',
    'qemu-xhci,id=lifeboat-usb',
    'virtio-blk-pci,drive=overlay0,id=vda,bootindex=2,serial=a,,b,rerror=stop,werror=stop,discard=on',
    'scsi-hd,bus=lifeboat-scsi.0,drive=overlay1,id=sda,bootindex=1,rerror=stop,werror=stop',
    'ide-hd,bus=ide.0,drive=overlay2,id=hda,rerror=stop,werror=stop',
    'ide-hd,bus=ide.1,drive=overlay3,id=hdb,rerror=stop,werror=stop',
    'nvme,drive=overlay4,id=nv,serial=nv',
    'usb-storage,bus=lifeboat-usb.0,drive=overlay5,id=stick,rerror=stop,werror=stop',
  ])
  const onPc = devices({ disks: [disk('a', { bus: 'ide' }), disk('b', { bus: 'ide' }), disk('c', { bus: 'ide' })] })
  assert.deepEqual(
    onPc.slice(0, 3).map(word => word.split(',').slice(1, 3).join(',')),
    ['bus=ide.0,unit=0', 'bus=ide.0,unit=1', 'bus=ide.1,unit=0'],
  )
})

test('what this host does not have is replaced and said', () => {
  const newer = command({ description: { name: 'v', machine: 'pc-q35-11.0' }, disks: [disk('1st', { bus: 'xen' })] })
  assert.deepEqual(valuesOf(newer.arguments, '-machine'), ['q35'])
  assert.equal(newer.warnings.length, 3)
  assert.equal(newer.arguments.join(' ').includes('id=1st'), false)
  const kvm = (cpuModel: string) =>
    command({ accelerator: 'kvm', description: { name: 'v', cpuModel }, cpuModels: new Set(['EPYC']) })
  assert.deepEqual(valuesOf(kvm('EPYC').arguments, '-cpu'), ['EPYC'])
  assert.deepEqual(valuesOf(kvm('Future').arguments, '-cpu'), ['host'])
  assert.equal(kvm('Future').warnings.length, 1)
  assert.deepEqual(valuesOf(kvm('host').arguments, '-accel'), ['kvm'])
})

test('flags win over the description; a kernel given directly leaves boot index 0 to itself; words after -- come last', () => {
  const { arguments: words } = command({
    description: { name: 'v', memoryBytes: 64 * MiB, cpus: 8 },
    memoryBytes: 100 * MiB + 1,
    cpus: 2,
    kernel: '/boot/vmlinuz',
    append: 'console=ttyS0 quiet',
    extra: ['-snapshot', '-no-reboot'],
  })
  assert.deepEqual([valuesOf(words, '-m'), valuesOf(words, '-smp')], [['101'], ['2']])
  assert.match(valuesOf(words, '-device')[0]!, /bootindex=1,/)
  assert.deepEqual(words.slice(-6), [
    '-kernel',
    '/boot/vmlinuz',
    '-append',
    'console=ttyS0 quiet',
    '-snapshot',
    '-no-reboot',
  ])
})

test('NICs keep their MAC addresses and end nowhere; a network is attached only when asked for', () => {
  const nics = [
    { model: 'e1000', mac: '52:54:00:00:00:01' },
    { model: 'virtio-net-pci', mac: '52:54:00:00:00:02' },
  ]
  const nicWords = (network: QemuCommandInput['network'], some = nics) =>
    devices({ description: { name: 'v', nics: some }, network }).filter(word => word.includes('romfile'))
  assert.deepEqual(nicWords({ kind: 'none' }), [
    'e1000,mac=52:54:00:00:00:01,romfile=',
    'virtio-net-pci,mac=52:54:00:00:00:02,romfile=',
  ])
  assert.equal(nicWords({ kind: 'user' })[0], 'e1000,netdev=net0,mac=52:54:00:00:00:01,romfile=')
  assert.deepEqual(nicWords({ kind: 'user' }, []), ['virtio-net-pci,netdev=net0,romfile='])
  assert.deepEqual(nicWords({ kind: 'none' }, []), [])
  assert.deepEqual(valuesOf(command({ network: { kind: 'bridge', bridge: 'br0' } }).arguments, '-netdev'), [
    'bridge,br=br0,id=net0',
  ])
})

test("UEFI firmware is flash: code read-only, variables the session's own", () => {
  const { arguments: words } = command({
    description: { name: 'v', machine: 'q35' },
    firmware: { code: '/f/OVMF_CODE_4M.secboot.fd', variables: '/s/vars' },
  })
  assert.deepEqual(valuesOf(words, '-machine'), ['q35,smm=on,pflash0=firmware-code,pflash1=firmware-variables'])
  const [code, variables] = valuesOf(words, '-blockdev').map(node => JSON.parse(node))
  assert.equal(code['read-only'], true)
  assert.equal(variables.file.filename, '/s/vars')
})

test('a description from a point is read field by field: nonsense is left out and never reaches a command line', () => {
  const source = new MemoryChunkSource(new Uint8Array(4096), { chunkSize: 4096 })
  const point = memoryPoint(
    { vda: source },
    {
      description: {
        name: 'x',
        machine: 'pc,accel=kvm',
        memoryBytes: -1,
        cpus: 1e9,
        cpuModel: 7,
        uuid: 'x',
        nics: [{ mac: 'x' }, { mac: '52:54:00:00:00:01', model: 'a b' }, 3],
        firmware: 'uefi',
      },
      diskDescriptions: { vda: { bus: 'a,b', bootIndex: -1, serial: 'tab\there' } },
    },
  )
  assert.deepEqual(JSON.parse(JSON.stringify(vmFromPoint(point.manifest))), {
    name: 'web1',
    firmware: { kind: 'bios' },
    nics: [{ mac: '52:54:00:00:00:01' }],
  })
  assert.deepEqual(JSON.parse(JSON.stringify(diskFromPoint(point.manifest.disks[0]!))), { name: 'vda' })
})
