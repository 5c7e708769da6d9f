/** Who reads the filesystems inside guests on this host, and the keys of encrypted ones: the same words for `files` and `mount`. */
import type { Command } from 'commander'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { GuestDisk, OpenGuest } from '../guest/guest-filesystems.ts'
import { type ChosenFilesystems, type OpenGuestRequest, openGuest } from '../guest/open-guest.ts'
import { readSmallBytes } from './host-files.ts'
import type { Invocation } from './invocation.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { runDirOf } from './run-dir.ts'

export interface GuestFlags {
  readonly guestKey?: readonly string[]
  readonly trustGuest?: boolean
}

export const guestOptions = (command: Command): Command =>
  command
    .option(
      '--guest-key <volume=file>',
      'passphrase or recovery key of an encrypted volume inside the guest (LUKS, BitLocker); may be repeated',
      (value: string, before: readonly string[] = []) => [...before, value],
    )
    .option(
      '--trust-guest',
      "this host's kernel mounts what is on the guest's partitions, as root: only for guests that you trust as you do root here",
    )

export type OpenChosenGuest = (disks: readonly GuestDisk[]) => Promise<ChosenFilesystems>

/** Reads the keys at once, so that a wrong name is told before anything is opened. */
export async function hostGuests(
  invocation: Invocation,
  { guestKey = [], trustGuest = false }: GuestFlags,
): Promise<OpenChosenGuest> {
  if (trustGuest && process.getuid?.() !== 0) throw onlyRootTrusts()
  const keys = new Map<string, Uint8Array>()
  for (const text of guestKey) {
    const at = text.indexOf('=')
    if (at < 1)
      throw new LifeboatError('usage', `--guest-key '${text}' names no volume and file`, {
        hint: 'for example --guest-key vda-p3=/root/vda-p3.key; `lifeboat files ls POINT` lists the volumes',
      })
    keys.set(text.slice(0, at), await keyIn(text.slice(at + 1)))
  }
  const programs = invocation.surroundings.guests ?? (await programsOf(invocation))
  return openGuest({ ...programs, ...(trustGuest && { reader: await kernelOf(invocation) }), keys })
}

const onlyRootTrusts = (): LifeboatError =>
  new LifeboatError('usage', '--trust-guest has the kernel of this host mount filesystems, which only root may', {
    hint: 'Run it as root, or without --trust-guest: then a sandboxed process and an appliance VM read them, for every user.',
  })

/** In the reader's place: what it leaves alone, and all where it cannot run, the appliance reads. */
async function kernelOf(invocation: Invocation): Promise<OpenGuest> {
  const { kernelGuests } = await import('../guest/kernel-guests.ts')
  const { mountTree } = await import('../fuse/mount.ts')
  const { output, surroundings } = invocation
  const { clock } = surroundings
  output.warning("--trust-guest: this host's kernel parses what the guests have on their disks, with all its rights")
  let kernels = 0
  const open = kernelGuests({
    clock,
    runDir: runDirOf(invocation),
    treePrefix: () => `kernel-${++kernels}`,
    mount: (root, mountPoint) => mountTree({ root, mountPoint, fsName: 'lifeboat:trusted', clock }),
  })
  return async (disks, options) => {
    try {
      return await open(disks, options)
    } catch (error) {
      if (!options?.signal?.aborted) output.warning(`--trust-guest: not possible here: ${messageOf(error)}`)
      throw error
    }
  }
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
