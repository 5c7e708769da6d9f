/** What runs the guest: KVM where it was seen to work since this host booted, or where the user insists; else QEMU's own emulation. */
import { access, constants, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { AbortOptions } from '../core/scope.ts'
import { type ProbeResult, probeAccelerator } from './kvm-probe.ts'

export type Accelerator = 'kvm' | 'tcg'

/**
 * All that QEMU emulates, but fast string instructions: where the processor promises those, Linux copies byte by byte with them,
 * which emulated takes three to four times as long: copies, and whatever comes over virtio-serial (30 to 38 MB/s instead of 120).
 */
export const EMULATED_CPU = 'max,-erms,-fsrm'

export interface AcceleratorRequest extends AbortOptions {
  readonly wanted: Accelerator | 'auto'
  readonly program: string
  readonly stateDir: string
  readonly runDir: string
  /** Changes with each boot of the host. */
  readonly bootId: string
  /** Where the device lies; /dev/kvm. */
  readonly device?: string
}

export interface ChosenAccelerator {
  readonly accelerator: Accelerator
  readonly reason: string
}

export async function chooseAccelerator(request: AcceleratorRequest): Promise<ChosenAccelerator> {
  if (request.wanted !== 'auto') return { accelerator: request.wanted, reason: 'asked for' }
  const { works, reason } = await kvmVerdict(request)
  return { accelerator: works ? 'kvm' : 'tcg', reason }
}

/** The verdict is kept until the host boots again or has another QEMU: a probe that hangs costs five seconds. */
export async function kvmVerdict(request: Omit<AcceleratorRequest, 'wanted'>): Promise<ProbeResult> {
  const device = request.device ?? '/dev/kvm'
  const usable = await access(device, constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  )
  if (!usable) return { works: false, reason: `${device} cannot be opened by this user` }
  const file = path.join(request.stateDir, 'kvm-verdict.json')
  const key = `${request.bootId} ${request.program}`
  const known = await readVerdict(file, key)
  if (known) return known
  const result = await probeAccelerator({ ...request, accelerator: 'kvm' })
  await mkdir(request.stateDir, { recursive: true, mode: 0o700 })
  const draft = `${file}.${process.pid}`
  await writeFile(draft, JSON.stringify({ key, ...result }), { mode: 0o600 })
  await rename(draft, file)
  return result
}

/** Undefined where there is none, where it is unreadable, and where it is about another boot or QEMU: all mean to probe anew. */
async function readVerdict(file: string, key: string): Promise<ProbeResult | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(file, 'utf8'))
    if (typeof value !== 'object' || value === null || !('key' in value) || value.key !== key) return undefined
    if (!('works' in value) || typeof value.works !== 'boolean') return undefined
    return { works: value.works, reason: 'reason' in value ? String(value.reason) : '' }
  } catch {
    return undefined
  }
}

/** Differs after every boot of this host, and in every container's host alike. */
export async function hostBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
}
