/**
 * Whether a QEMU may write to an image: qemu-img finds that out for qcow2, but opens a raw image that is being written without
 * a word. QEMU says so in the file's own locks: a shared lock on byte 100 + n is the permission n, and writing is 1.
 */
import { readFile, stat } from 'node:fs/promises'
import { LifeboatError } from '../core/errors.ts'

const WRITES_AT = 101n

/** "1: OFDLCK ADVISORY  READ -1 fe:00:2204609 100 101" */
const LOCK = /^\d+: OFDLCK +ADVISORY +READ +-?\d+ ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)$/

export interface FileIdentity {
  readonly major: bigint
  readonly minor: bigint
  readonly inode: bigint
}

export function isWrittenByQemu(locks: string, { major, minor, inode }: FileIdentity): boolean {
  return locks.split('\n').some(line => {
    const match = LOCK.exec(line)
    if (!match) return false
    const [, lockMajor, lockMinor, lockInode, from, to] = match
    if (BigInt(`0x${lockMajor}`) !== major || BigInt(`0x${lockMinor}`) !== minor || BigInt(lockInode ?? 0) !== inode)
      return false
    return BigInt(from ?? 0) <= WRITES_AT && (to === 'EOF' || BigInt(to ?? 0) >= WRITES_AT)
  })
}

/** Throws 'vm-busy'. Where the kernel does not show locks, the image is taken on trust. */
export async function refuseIfWritten(file: string): Promise<void> {
  const locks = await readFile('/proc/locks', 'utf8').catch(() => '')
  const found = await stat(file, { bigint: true }).catch(() => undefined)
  if (!found) return
  const major = ((found.dev >> 8n) & 0xfffn) | ((found.dev >> 32n) & 0xfffff000n)
  const minor = (found.dev & 0xffn) | ((found.dev >> 12n) & 0xffffff00n)
  if (isWrittenByQemu(locks, { major, minor, inode: found.ino }))
    throw new LifeboatError('vm-busy', `the image ${file} is in use by a running machine`, {
      details: { object: file },
      hint: 'Back up the running machine with --qmp, or stop it first.',
    })
}
