/**
 * Whether KVM really runs guests here. That /dev/kvm opens proves nothing: on hosts that are guests themselves it may open,
 * initialise, and then hang at the first switch of mode. So a firmware of ours is run for a moment: it goes from the reset
 * vector through protected mode to long mode with paging, takes an interrupt there, and leaves through a port.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { runTool } from './external-tool.ts'

/** kvm-probe.s, assembled; loaded at F000:0000. */
const CODE = [
  'fab010e6e92e660f011678010f20c06683c8010f22c066ea1e000f00080066b810008ed88ec08ed0bc007c0000b020e6',
  'e9fcbf0000010031c0b900180000f3abc7050000010003100100c7050010010003200100c7050810010003300100c705',
  '1010010003400100c7051810010003500100bf00200100b883000000b9000800008907c7470400000000050000200083',
  'c708e2ed0f20e083c8200f22e0b8000001000f22d8b9800000c00f320d000100000f300f20c00d000000800f22c0eac5',
  '000f001800b030e6e948c7c4007c000031c08ed88ec08ed048c7c01800000050b8e8000f005048cbb040e6e9b9300002',
  '00b852010f0066890166c74102180066c74104008ec1e81066894106c7410800000000c7410c0000000066c704250010',
  '0200ff0f48c7042502100200000002000f011c2500100200ccb060e6e90f20d80f22d831c00fa2b070e6e9b02ae6f4f4',
  'ebfdb050e6e948cf0000000000000000ffff0000009acf00ffff00000092cf00ffff0000009aaf001f0058010f',
]
/** At F000:FFF0: a jump to the start. */
const RESET_VECTOR = 'e90d00'
const FIRMWARE_BYTES = 64 * 1024
/** isa-debug-exit ends QEMU with twice the value plus one. */
const EXIT_CODE = 0x2a * 2 + 1

export function probeFirmware(): Uint8Array {
  const firmware = Buffer.alloc(FIRMWARE_BYTES)
  firmware.write(CODE.join(''), 0, 'hex')
  firmware.write(RESET_VECTOR, 0xfff0, 'hex')
  return firmware
}

export interface ProbeRequest extends AbortOptions {
  readonly accelerator: 'kvm' | 'tcg'
  readonly program: string
  /** A folder for the firmware's file. */
  readonly runDir: string
  readonly timeoutMs?: number
}

export interface ProbeResult {
  readonly works: boolean
  /** One sentence for people. */
  readonly reason: string
}

/** Throws 'tool-missing' where there is no QEMU. */
export async function probeAccelerator(request: ProbeRequest): Promise<ProbeResult> {
  const { accelerator, program, runDir, signal, timeoutMs = limits.kvmProbeMs } = request
  await mkdir(runDir, { recursive: true, mode: 0o700 })
  const folder = await mkdtemp(path.join(runDir, 'probe-'))
  const late = AbortSignal.timeout(timeoutMs)
  try {
    const firmware = path.join(folder, 'probe.bin')
    await writeFile(firmware, probeFirmware())
    const { code, stderr } = await runTool(program, probeArguments(accelerator, firmware), {
      signal: signal ? AbortSignal.any([signal, late]) : late,
    })
    if (code === EXIT_CODE) return { works: true, reason: `a guest ran to 64-bit mode under ${accelerator}` }
    const said = stderr
      .trim()
      .split('\n')
      .find(line => !line.includes('warning:'))
    return { works: false, reason: said?.slice(0, 200) ?? `QEMU ended with ${code}` }
  } catch (error) {
    signal?.throwIfAborted()
    if (!late.aborted) throw error
    return { works: false, reason: `${accelerator} starts, but a guest hangs before it reaches 64-bit mode` }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

const probeArguments = (accelerator: string, firmware: string): string[] => [
  ...['-accel', accelerator, '-machine', 'pc', '-m', '16', '-bios', firmware],
  ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
  ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
]
