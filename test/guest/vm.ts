/**
 * Starts QEMU the way a production host would wire it (named block nodes, qdev ids, QMP, guest agent port), without
 * hardware virtualisation. One guest at a time is meant: two processors do not carry more.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EMULATED_CPU } from '../../src/recovery/accelerator.ts'
import { type CommandResult, connectConsole } from './console.ts'
import { startOwned } from './process-record.ts'
import type { GuestImage } from './tiny-image.ts'
import { copyImage } from './tool.ts'

export interface VmDisk {
  /** The qdev id, by which Lifeboat names the disk. The block node is called `node-<name>`. */
  readonly name: string
  readonly path: string
  readonly format: 'raw' | 'qcow2'
  readonly bus?: 'virtio' | 'nvme'
  readonly readOnly?: boolean
}

export interface VmOptions {
  /** In boot order: the first is booted from. */
  readonly disks: readonly VmDisk[]
  readonly memoryMiB?: number
  /** `uefi` boots Debian's ovmf with a private copy of its variables. */
  readonly firmware?: 'bios' | 'uefi'
  /** Boots this kernel instead of the disk's own boot loader. */
  readonly direct?: GuestImage['direct']
  /** Adds the port that qemu-guest-agent listens on. */
  readonly agent?: boolean
  readonly bootTimeoutMs?: number
  readonly extraArguments?: readonly string[]
}

export interface TestVm extends AsyncDisposable {
  readonly pid: number
  /** Unix sockets. */
  readonly qmp: string
  readonly agent: string
  readonly serial: string
  /** The UEFI variable store, where there is one. */
  readonly variables?: string
  /** Resolves when QEMU has ended. */
  readonly ended: Promise<unknown>
  waitForPrompt(): Promise<void>
  run(line: string, options?: { timeoutMs?: number }): Promise<CommandResult>
  must(line: string, options?: { timeoutMs?: number }): Promise<string>
  /** Asks the guest to go and waits until QEMU has ended. */
  poweroff(): Promise<void>
  /** As a power failure: SIGKILL. */
  kill(): Promise<void>
  /** Everything that the guest said on its serial port. */
  text(): string
}

const OVMF = '/usr/share/OVMF/OVMF_'
const POWEROFF_TIMEOUT_MS = 120_000
const ACCELERATION = ['-accel', 'tcg,thread=multi,tb-size=512', '-cpu', EMULATED_CPU, '-smp', '1']
const BARE = ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot']

export async function startVm(options: VmOptions): Promise<TestVm> {
  const folder = mkdtempSync(join(tmpdir(), 'lifeboat-vm-'))
  const at = (name: string): string => join(folder, name)
  const uefi = options.firmware === 'uefi'
  if (uefi) await copyImage(`${OVMF}VARS_4M.fd`, at('variables.fd'))
  const { child, ended, log } = startOwned(
    'qemu-system-x86_64',
    [
      ...['-machine', uefi ? 'q35,pflash0=firmware-code,pflash1=firmware-variables' : 'pc'],
      ...(uefi ? firmwareArguments(at('variables.fd')) : []),
      ...ACCELERATION,
      ...['-m', `${options.memoryMiB ?? 256}`],
      ...BARE,
      ...socketArguments('qmp', at('qmp'), '-mon', 'chardev=qmp,mode=control'),
      ...socketArguments('serial', at('serial'), '-serial', 'chardev:serial'),
      ...(options.agent ? agentArguments(at('agent')) : []),
      ...options.disks.flatMap(diskArguments),
      ...(options.direct ? directArguments(options.direct) : []),
      ...(options.extraArguments ?? []),
    ],
    { scratch: folder },
  )
  const removed = ended.then(() => rmSync(folder, { recursive: true, force: true }))
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL')
    await removed
  }
  const console = await Promise.race([
    connectConsole(at('serial')),
    ended.then(() => {
      throw new Error(`QEMU did not start:\n${log()}`)
    }),
  ]).catch(async error => {
    await kill()
    throw error
  })

  return {
    pid: child.pid ?? 0,
    qmp: at('qmp'),
    agent: at('agent'),
    serial: at('serial'),
    ...(uefi ? { variables: at('variables.fd') } : {}),
    ended: removed,
    async waitForPrompt() {
      await console.waitForPrompt(options.bootTimeoutMs ?? 180_000).catch(error => {
        throw new Error(`${error}\nQEMU said: ${log()}`, { cause: error })
      })
    },
    run: console.run,
    must: console.must,
    text: console.text,
    kill,
    async poweroff() {
      console.askToPowerOff()
      const late = setTimeout(() => child.kill('SIGKILL'), POWEROFF_TIMEOUT_MS)
      const { signal } = await ended
      clearTimeout(late)
      await removed
      if (signal === 'SIGKILL')
        throw new Error(`the guest did not power off. Its last words:\n${console.text().slice(-2000)}`)
    },
    async [Symbol.asyncDispose]() {
      await kill()
      console[Symbol.dispose]()
    },
  }
}

const socketArguments = (id: string, path: string, ...use: readonly string[]): string[] => [
  ...['-chardev', `socket,id=${id},path=${path},server=on,wait=off`],
  ...use,
]

const agentArguments = (path: string): string[] => [
  ...['-device', 'virtio-serial-pci'],
  ...socketArguments('agent', path, '-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'),
]

const firmwareArguments = (variables: string): string[] => [
  ...blockNode({
    driver: 'raw',
    'node-name': 'firmware-code',
    'read-only': true,
    file: file(`${OVMF}CODE_4M.fd`, true),
  }),
  ...blockNode({ driver: 'raw', 'node-name': 'firmware-variables', file: file(variables) }),
]

const directArguments = ({ kernel, initrd, append }: GuestImage['direct']): string[] => [
  ...['-kernel', kernel, '-initrd', initrd, '-append', append],
]

/** Boot indexes start at 1, because a kernel that is given directly takes 0. */
function diskArguments({ name, path, format, bus = 'virtio', readOnly = false }: VmDisk, index: number): string[] {
  const node = `node-${name}`
  const model = bus === 'nvme' ? `nvme,serial=${name}` : 'virtio-blk-pci'
  return [
    ...blockNode({
      driver: format,
      'node-name': node,
      'read-only': readOnly,
      discard: 'unmap',
      file: file(path, readOnly),
    }),
    ...['-device', `${model},drive=${node},id=${name},bootindex=${index + 1}`],
  ]
}

const file = (filename: string, readOnly = false): object => ({ driver: 'file', filename, 'read-only': readOnly })
const blockNode = (node: object): string[] => ['-blockdev', JSON.stringify(node)]
