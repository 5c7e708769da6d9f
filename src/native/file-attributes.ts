/**
 * What Node's fs does not have: extended attributes, times in nanoseconds, device nodes, and a rename that replaces nothing. None of
 * them follows a link at the end of its path. A failure is an error with the system's `code` ('EPERM'), as those of fs are.
 */
import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import { loadAddon } from './native.ts'
import { writeTime } from './place-file.ts'

const S_IFIFO = 0o010000
const S_IFCHR = 0o020000
const S_IFBLK = 0o060000
const S_IFSOCK = 0o140000
const KINDS = { fifo: S_IFIFO, socket: S_IFSOCK, 'character-device': S_IFCHR, 'block-device': S_IFBLK }
/** Of all attributes of one file. */
const XATTRS_BYTES_MAX = 16 * 1024 * 1024

export async function setXattr(path: Uint8Array, name: Uint8Array, value: Uint8Array): Promise<void> {
  check('lsetxattr', await loadAddon().setFileXattr(path, name, value))
}

/** Values by full name; none where the filesystem has none. Security attributes as the kernel shows them to this user. */
export async function xattrsOf(path: Uint8Array): Promise<{ name: Uint8Array; value: Uint8Array }[]> {
  for (let size = 4096; ; size *= 8) {
    const target = Buffer.alloc(size)
    const used = await loadAddon().readFileXattrs(path, target)
    if (used === -constants.errno.ERANGE && size < XATTRS_BYTES_MAX) continue
    check('llistxattr', used)
    const fields = [...fieldsOf(target.subarray(0, used))]
    return Array.from({ length: fields.length / 2 }, (_, index) => ({
      name: fields[2 * index]!,
      value: fields[2 * index + 1]!,
    }))
  }
}

function* fieldsOf(bytes: Buffer): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; ) {
    const end = at + 4 + bytes.readUInt32LE(at)
    yield new Uint8Array(bytes.subarray(at + 4, end))
    at = end
  }
}

export async function setTimes(path: Uint8Array, accessedNs: bigint, modifiedNs: bigint): Promise<void> {
  const times = Buffer.alloc(32)
  writeTime(times, 0, accessedNs)
  writeTime(times, 16, modifiedNs)
  check('utimensat', await loadAddon().setFileTimes(path, times))
}

/** A fifo, socket or device that only its owner may use. */
export async function makeSpecial(
  path: Uint8Array,
  kind: keyof typeof KINDS,
  device: { readonly major: number; readonly minor: number } = { major: 0, minor: 0 },
): Promise<void> {
  check('mknod', await loadAddon().makeSpecialFile(path, KINDS[kind] | 0o600, device.major, device.minor))
}

/** Fails with EEXIST where there is anything under the new name; with EINVAL on filesystems that cannot promise that. */
export async function renameToNew(from: Uint8Array, to: Uint8Array): Promise<void> {
  check('renameat2', await loadAddon().renameToNew(from, to))
}

function check(call: string, outcome: number): void {
  if (outcome >= 0) return
  const code = getSystemErrorName(outcome)
  throw Object.assign(new Error(`${call}: ${code}`), { code, errno: outcome, syscall: call })
}
