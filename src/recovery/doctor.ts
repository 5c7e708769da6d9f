/** What this host can and cannot do, each with what to do about it. Looks only; changes nothing but the kept verdict about KVM. */
import { constants } from 'node:fs'
import { access, readFile, stat, statfs } from 'node:fs/promises'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { messageOf } from '../core/errors.ts'
import { GiB, MiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { loadAddon as loadNative } from '../native/native.ts'
import { hostBootId, kvmVerdict } from './accelerator.ts'
import { runTool } from './external-tool.ts'

export interface Check {
  readonly name: string
  readonly status: 'ok' | 'warn' | 'fail'
  /** What was seen. */
  readonly found: string
  /** What to do about it; absent where nothing is to be done. */
  readonly advice?: string
}

export interface DoctorRequest extends AbortOptions {
  readonly stateDir: string
  readonly cacheDir: string
  readonly runDir: string
  readonly clock: Clock
  readonly nodeVersion?: string
  /** Throws where the addon cannot be loaded. */
  readonly loadAddon?: () => unknown
  readonly program?: string
  /** For tests of what is said; /dev and /run otherwise. */
  readonly devices?: { readonly kvm: string; readonly fuse: string }
}

export async function doctor(request: DoctorRequest): Promise<readonly Check[]> {
  const checks: (readonly [string, () => Promise<Omit<Check, 'name'>>])[] = [
    ['node', async () => nodeCheck(request)],
    ['addon', async () => addonCheck(request)],
    ['qemu', () => qemuCheck(request)],
    ['qemu-img', () => toolCheck(request, 'qemu-img', 'qemu-utils', 'fail', 'needed for booting and for qcow2')],
    ['kvm', () => kvmCheck(request)],
    ['fuse', () => fuseCheck(request)],
    [
      'setpriv',
      () => toolCheck(request, 'setpriv', 'util-linux', 'fail', 'needed so that a VM never outlives its server'),
    ],
    ['nbdinfo', () => toolCheck(request, 'nbdinfo', 'libnbd-bin', 'warn', 'handy for looking at exports')],
    ['ovmf', () => ovmfCheck()],
    [
      'state-dir',
      () => folderCheck(request.stateDir, 'LIFEBOAT_STATE_DIR', 2 * GiB, 'overlays of booted VMs lie there'),
    ],
    [
      'cache-dir',
      () =>
        folderCheck(request.cacheDir, 'LIFEBOAT_CACHE_DIR', 256 * MiB, 'cached chunks and fleecing images lie there'),
    ],
    ['systemd', () => systemdCheck()],
    ['clock', () => clockCheck(request)],
  ]
  const results: Check[] = []
  // One after the other: a probe of KVM wants the processor for itself.
  for (const [name, look] of checks) results.push({ name, ...(await lookedAt(look, request)) })
  return results
}

async function lookedAt(
  look: () => Promise<Omit<Check, 'name'>>,
  { signal }: AbortOptions,
): Promise<Omit<Check, 'name'>> {
  try {
    return await look()
  } catch (error) {
    signal?.throwIfAborted()
    return { status: 'warn', found: `could not be checked: ${messageOf(error)}`, advice: 'Look into that first.' }
  }
}

const NODE_MAJOR = 24

function nodeCheck({ nodeVersion = process.version }: DoctorRequest): Omit<Check, 'name'> {
  const found = `Node ${nodeVersion}`
  if (Number(/^v?(\d+)/.exec(nodeVersion)?.[1]) >= NODE_MAJOR) return { status: 'ok', found }
  return { status: 'fail', found, advice: `Use Node ${NODE_MAJOR} or later; npm install brings one.` }
}

function addonCheck({ loadAddon = loadNative }: DoctorRequest): Omit<Check, 'name'> {
  try {
    loadAddon()
    return { status: 'ok', found: 'the native addon is loaded' }
  } catch (error) {
    return { status: 'fail', found: messageOf(error), advice: 'Build it: npm run build (needs g++ and libzstd-dev).' }
  }
}

async function qemuCheck({ program = 'qemu-system-x86_64', signal }: DoctorRequest): Promise<Omit<Check, 'name'>> {
  const text = await versionOf(program, signal)
  if (text === undefined)
    return { status: 'fail', found: `${program} is not there`, advice: 'Install it: apt-get install qemu-system-x86' }
  return qemuVersionCheck(text)
}

/** From what `--version` says. Copy-before-write with break-snapshot came with 7.1. */
export function qemuVersionCheck(text: string): Omit<Check, 'name'> {
  const version = /version (\d+)\.(\d+)\.(\d+)/.exec(text)
  if (!version) return { status: 'warn', found: `unknown version: ${text.slice(0, 80)}` }
  const found = `QEMU ${version[1]}.${version[2]}.${version[3]}`
  if (Number(version[1]) * 100 + Number(version[2]) >= 701) return { status: 'ok', found }
  return {
    status: 'warn',
    found,
    advice:
      'From 7.1 on a full fleecing image breaks the backup and never stops the guest; with this one it is watched and undone.',
  }
}

async function toolCheck(
  { signal }: DoctorRequest,
  command: string,
  from: string,
  missing: 'warn' | 'fail',
  what: string,
): Promise<Omit<Check, 'name'>> {
  const text = await versionOf(command, signal)
  if (text !== undefined) return { status: 'ok', found: text.split('\n')[0]?.slice(0, 100) ?? '' }
  return { status: missing, found: `${command} is not there: ${what}`, advice: `Install it: apt-get install ${from}` }
}

async function versionOf(command: string, signal: AbortSignal | undefined): Promise<string | undefined> {
  try {
    const { code, stdout } = await runTool(command, ['--version'], { signal })
    return code === 0 ? stdout : undefined
  } catch {
    signal?.throwIfAborted()
    return undefined
  }
}

async function kvmCheck(request: DoctorRequest): Promise<Omit<Check, 'name'>> {
  const { works, reason } = await kvmVerdict({
    program: request.program ?? 'qemu-system-x86_64',
    stateDir: request.stateDir,
    runDir: request.runDir,
    bootId: await hostBootId(),
    device: request.devices?.kvm,
    signal: request.signal,
  })
  if (works) return { status: 'ok', found: reason }
  return {
    status: 'warn',
    found: `KVM does not work here: ${reason}`,
    advice:
      'Recovered VMs run emulated, which is slow. Enable virtualisation in the firmware or the outer hypervisor, and join the group kvm.',
  }
}

async function fuseCheck({ devices }: DoctorRequest): Promise<Omit<Check, 'name'>> {
  const device = devices?.fuse ?? '/dev/fuse'
  if (await mayUse(device)) return { status: 'ok', found: `${device} can be opened` }
  return {
    status: 'warn',
    found: `${device} cannot be opened`,
    advice: 'Needed for `lifeboat mount` only: load the fuse module, install fuse3.',
  }
}

async function ovmfCheck(): Promise<Omit<Check, 'name'>> {
  const file = '/usr/share/OVMF/OVMF_CODE_4M.fd'
  if (await mayRead(file)) return { status: 'ok', found: file }
  return { status: 'warn', found: 'no UEFI firmware', advice: 'Needed to boot UEFI guests: apt-get install ovmf' }
}

async function folderCheck(
  folder: string,
  variable: string,
  wanted: number,
  what: string,
): Promise<Omit<Check, 'name'>> {
  const at = await existingPart(folder)
  const usable = await access(at, constants.W_OK | constants.X_OK).then(
    () => true,
    () => false,
  )
  if (!usable)
    return {
      status: 'fail',
      found: `${at} cannot be written to`,
      advice: `Set ${variable} to a folder of yours, or change its owner.`,
    }
  const { bavail, bsize } = await statfs(at)
  const found = `${folder}: ${((bavail * bsize) / GiB).toFixed(1)} GiB free`
  const { mode } = await stat(at)
  if (at === folder && (mode & 0o077) !== 0)
    return { status: 'warn', found: `${found}, and others may look into it`, advice: `chmod 700 ${folder}` }
  if (bavail * bsize < wanted)
    return { status: 'warn', found, advice: `Free space there, or set ${variable}: ${what}.` }
  return { status: 'ok', found }
}

/** The folder, or the nearest one above it that exists, where it would be made. */
async function existingPart(folder: string): Promise<string> {
  for (let at = path.resolve(folder); ; at = path.dirname(at)) {
    const found = await stat(at).catch(() => undefined)
    if (found || at === path.dirname(at)) return at
  }
}

async function systemdCheck(): Promise<Omit<Check, 'name'>> {
  const running = await stat('/run/systemd/system').then(
    () => true,
    () => false,
  )
  if (running) return { status: 'ok', found: 'systemd runs' }
  return {
    status: 'warn',
    found: 'systemd does not run here',
    advice: 'Start the agent and sessions by other means; the units are of no use here.',
  }
}

/** Before this program was written: a host without a battery-backed clock that has not reached its time server. */
const EARLIEST = Date.UTC(2026, 0, 1)

async function clockCheck({ clock }: DoctorRequest): Promise<Omit<Check, 'name'>> {
  const now = clock.now()
  if (now.getTime() < EARLIEST)
    return {
      status: 'fail',
      found: `the clock says ${now.toISOString()}`,
      advice: 'Set the clock: points are named by it.',
    }
  const uptime = Number((await readFile('/proc/uptime', 'utf8')).split(' ')[0])
  return { status: 'ok', found: `${now.toISOString()}, up ${Math.floor(uptime / 3600)} h` }
}

const mayUse = (file: string): Promise<boolean> => can(file, constants.R_OK | constants.W_OK)
const mayRead = (file: string): Promise<boolean> => can(file, constants.R_OK)
const can = (file: string, mode: number): Promise<boolean> =>
  access(file, mode).then(
    () => true,
    () => false,
  )
