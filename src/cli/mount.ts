import type { Command } from 'commander'
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, messageOf } from '../core/errors.ts'
import { mountTree } from '../fuse/mount.ts'
import { pointsTree } from '../mount/points-tree.ts'
import { type GuestFlags, guestOptions, hostGuests } from './guests.ts'
import { notifyReady } from './host-stopping.ts'
import { type LiveReadFlags, liveReadOptions, openForLiveReads } from './live-reads.ts'
import type { Output } from './output.ts'
import { verb } from './verb.ts'

interface Flags extends LiveReadFlags, GuestFlags {
  readonly allowOther?: boolean
}

export const mountCommand = verb<Flags>({
  syntax: 'mount <dir>',
  isServer: true,
  description:
    'Every VM, point and disk, and the files inside guests, as files below an empty folder, until it is unmounted or SIGTERM. ' +
    'by-vm/VM/TIME/ has disks/NAME.raw, manifest.json and files/VOLUME/...; by-vm/VM/latest is the newest point.',
  examples: [
    '--repo /srv/backup mount /mnt/backup',
    '--repo /srv/backup mount /mnt/backup --allow-other --guest-key vda-p3=/root/vda-p3.key',
    '--repo /srv/backup mount /mnt/backup --trust-guest',
    '--repo "s3://bucket/vms?endpoint=https://s3.example" mount /mnt/backup --disk-cache-size 20GiB',
  ],
  options: (command: Command) =>
    guestOptions(liveReadOptions(command)).option(
      '--allow-other',
      'other users may look too; for all but root only with user_allow_other in /etc/fuse.conf',
    ),
  async run(invocation, [dir = ''], flags) {
    const { output, surroundings, signal } = invocation
    const { clock } = surroundings
    const onTrouble = told(output, clock)
    const guests = await hostGuests(invocation, flags)
    await using opened = await openForLiveReads(invocation, flags)
    const { repository, cache } = opened
    const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
    await using tree = await pointsTree({ repository, cache, clock, owner, openGuest: guests, onTrouble }, { signal })
    await using mounted = await mountTree({
      root: tree.root,
      mountPoint: dir,
      fsName: `lifeboat:${invocation.repositoryUrl}`,
      allowOther: flags.allowOther,
      clock,
      onTrouble,
      signal,
    })
    const { mountPoint } = mounted
    output.result({ mountPoint }, () => output.line(mountPoint))
    await notifyReady(invocation)
    await mounted.ended
    if (signal.aborted && !isLifeboatError(signal.reason, 'interrupted')) throw signal.reason
    return undefined
  },
})

const TOLD_AGAIN_MS = 60_000
const TEXTS_KEPT = 256

/** What went wrong, each text once a minute: thousands of reads may fail for one reason. */
function told(output: Output, clock: Clock): (message: string, error?: unknown) => void {
  const texts = new Map<string, number>()
  return (message, error) => {
    const text = error === undefined || message.includes(messageOf(error)) ? message : `${message}: ${messageOf(error)}`
    const now = clock.monotonicMs()
    if (now - (texts.get(text) ?? Number.NEGATIVE_INFINITY) < TOLD_AGAIN_MS) return
    if (texts.size >= TEXTS_KEPT) texts.clear()
    texts.set(text, now)
    output.warning(text)
  }
}
