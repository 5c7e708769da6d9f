/** UEFI: the code that this host has, and the guest's own variables as a file. */
import { access, copyFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'

import type { VmDescription } from '../hypervisor/hypervisor.ts'

export interface FirmwareFiles {
  readonly code: string
  readonly variables: string
}

/** Debian's ovmf, then other distributions' places; the size of the variable store tells 4 MiB firmware from 2 MiB. */
const CODES_4M = [
  '/usr/share/OVMF/OVMF_CODE_4M.fd',
  '/usr/share/edk2/x64/OVMF_CODE.4m.fd',
  '/usr/share/edk2/ovmf/OVMF_CODE_4M.fd',
]
const CODES_2M = ['/usr/share/OVMF/OVMF_CODE.fd', '/usr/share/edk2/ovmf/OVMF_CODE.fd']
const VARIABLES_2M_BYTES = 128 * 1024

/** Undefined for a BIOS guest. `folder` gets the variables, unless an earlier run of the session left them there. */
export async function provideFirmware(
  firmware: VmDescription['firmware'],
  variables: Uint8Array | undefined,
  folder: string,
): Promise<FirmwareFiles | undefined> {
  if (firmware?.kind !== 'uefi') return undefined
  const codes = variables && variables.length <= VARIABLES_2M_BYTES ? CODES_2M : CODES_4M
  const code = await firstReadable([...(firmware.codePath ? [firmware.codePath] : []), ...codes])
  if (code === undefined)
    throw new LifeboatError('tool-missing', 'this host has no UEFI firmware for QEMU', {
      details: { object: firmware.codePath ?? codes[0] },
      hint: 'Install it: apt-get install ovmf',
    })
  const file = path.join(folder, 'firmware-variables.fd')
  if (await isReadable(file)) return { code, variables: file }
  if (variables) await writeFile(file, variables, { mode: 0o600, flag: 'wx' })
  else await copyFile(code.replace('_CODE', '_VARS').replace('.secboot', ''), file)
  return { code, variables: file }
}

async function firstReadable(files: readonly string[]): Promise<string | undefined> {
  for (const file of files) if (await isReadable(file)) return file
  return undefined
}

const isReadable = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  )
