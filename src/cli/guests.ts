/** Who reads the filesystems inside guests on this host, and the keys of encrypted ones: the same words for `files` and `mount`. */
import type { Command } from 'commander'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { GuestDisk } from '../guest/guest-filesystems.ts'
import { type ChosenFilesystems, type OpenGuestRequest, openGuest } from '../guest/open-guest.ts'
import { readSmallBytes } from './host-files.ts'
import type { Invocation } from './invocation.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { runDirOf } from './run-dir.ts'

export interface GuestFlags {
  readonly guestKey?: readonly string[]
}

export const guestOptions = (command: Command): Command =>
  command.option(
    '--guest-key <volume=file>',
    'passphrase or recovery key of an encrypted volume inside the guest (LUKS, BitLocker); may be repeated',
    (value: string, before: readonly string[] = []) => [...before, value],
  )

export type OpenChosenGuest = (disks: readonly GuestDisk[]) => Promise<ChosenFilesystems>

/** Reads the keys at once, so that a wrong name is told before anything is opened. */
export async function hostGuests(invocation: Invocation, { guestKey = [] }: GuestFlags): Promise<OpenChosenGuest> {
  const keys = new Map<string, Uint8Array>()
  for (const text of guestKey) {
    const at = text.indexOf('=')
    if (at < 1)
      throw new LifeboatError('usage', `--guest-key '${text}' names no volume and file`, {
        hint: 'for example --guest-key vda-p3=/root/vda-p3.key; `lifeboat files ls POINT` lists the volumes',
      })
    keys.set(text.slice(0, at), await keyIn(text.slice(at + 1)))
  }
  return openGuest({ ...(invocation.surroundings.guests ?? (await programsOf(invocation))), keys })
}

async function keyIn(file: string): Promise<Uint8Array> {
  try {
    return await readSmallBytes(file, limits.guestKeyBytesMax)
  } catch (error) {
    throw new LifeboatError('usage', `the key file ${file} of a guest's volume cannot be read: ${messageOf(error)}`, {
      details: { object: file },
      hint: 'Check its name and mode.',
      cause: error,
    })
  }
}

async function programsOf(invocation: Invocation): Promise<OpenGuestRequest> {
  const { readerGuests } = await import('../guest/reader.ts')
  const { applianceGuests } = await import('../guest/appliance.ts')
  const { cacheDir, stateDir, output } = invocation
  const { clock, environment } = invocation.surroundings
  let readers = 0
  let appliances = 0
  return {
    reader: readerGuests({ clock, treePrefix: () => `reader-${++readers}` }),
    appliance: applianceGuests({
      // Its own disks come and go; nobody waits for a line of that.
      exporter: nbdExporter(clock, { message: () => {} }),
      clock,
      cacheDir,
      stateDir,
      runDir: runDirOf(invocation),
      treePrefix: () => `appliance-${++appliances}`,
      temporary: environment.TMPDIR,
      tell: text => output.message(text),
    }),
  }
}
