/** What the demonstration asks of its guests, in shell lines that busybox and Debian understand alike. */
import type { GuestConsole } from '../../test/guest/console.ts'

type Shell = Pick<GuestConsole, 'must'>

export interface Checksums {
  /** Of the files on the system disk. */
  readonly system: string
  /** Of the files on the data disk. */
  readonly data: string
  /** Of one of those, `LETTER`, alone. */
  readonly letter: string
}

/** The file of the data disk that comes out through the mount at the end. */
export const LETTER = 'letters/8.txt'

const CHECKSUM_TIMEOUT_MS = 300_000

export async function checksums(guest: Shell): Promise<Checksums> {
  const of = (folders: string): Promise<string> =>
    guest.must(`find ${folders} -xdev -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-64`, {
      timeoutMs: CHECKSUM_TIMEOUT_MS,
    })
  const letter = await guest.must(`sha256sum < /data/${LETTER} | cut -c1-64`)
  return { system: await of('/etc /boot /home'), data: await of('/data'), letter: letter.trim() }
}

export const sameChecksums = (a: Checksums, b: Checksums): boolean => a.system === b.system && a.data === b.data

/** Writes a line every fifth of a second for as long as the guest lives, to a file that is not checksummed. */
export const keepWriting = (guest: Shell): Promise<string> =>
  guest.must('mkdir -p /home; (while :; do date >> /var/heartbeat; sleep 0.2; done) > /dev/null 2>&1 &')

/** New files, an overwritten piece in the middle of one, and a deleted one; on both disks. */
export async function changeFiles(guest: Shell): Promise<void> {
  await guest.must('dd if=/dev/urandom of=/data/new.bin bs=1024k count=3 2>/dev/null')
  await guest.must('dd if=/dev/urandom of=/data/noise-1.bin bs=64k seek=5 count=2 conv=notrunc 2>/dev/null')
  await guest.must('rm /data/letters/7.txt; echo "a line that only the newer point holds" >> /data/letters/8.txt')
  await guest.must('dd if=/dev/urandom of=/home/notes bs=1k count=300 2>/dev/null; echo lifeboat > /etc/motd; sync')
}

/**
 * From here on nothing writes to the data disk, not even the guest's shutdown: what the disk holds at the end is what the
 * point must hold, bit by bit.
 */
export const endWritesToData = (guest: Shell): Promise<string> => guest.must('sync; mount -o remount,ro /data')

export const heartbeats = (guest: Shell): Promise<string> => guest.must('wc -l < /var/heartbeat')

/** A file on the system disk: the data disk stays as it was captured. */
export const writeAfterRecovery = (guest: Shell): Promise<string> =>
  guest.must('dd if=/dev/urandom of=/home/after-recovery bs=64k count=48 2>/dev/null; sync', {
    timeoutMs: CHECKSUM_TIMEOUT_MS,
  })

/** So that what is read next comes from the disks. */
export const dropCaches = (guest: Shell): Promise<string> => guest.must('sync; echo 3 > /proc/sys/vm/drop_caches')
