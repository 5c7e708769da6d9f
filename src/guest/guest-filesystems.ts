/**
 * Guest: the filesystems inside a point's disks, as trees of files.
 *
 * What it is: `GuestFilesystems`, opened over all disks of one point together, since LVM, mdraid and Btrfs spread over several. An
 * appliance VM is one implementation, a sandboxed reader process another; both speak docs/guest-protocol.md.
 * What it guarantees: a guest's bytes are parsed neither by this host's kernel (unless the user trusts the guest) nor in this
 * process; whoever parses them has a bound in memory and time, has no network, and may be killed at any moment.
 * What it does not know: where the disks come from (they are `BlockReader`s), and who reads the trees.
 */
import type { BlockReader } from '../block/block-device.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileTree } from '../files/file-tree.ts'

export interface GuestDisk {
  /** As the point calls it: 'vda'. */
  readonly name: string
  readonly image: BlockReader
}

/**
 * One place of the guest's disks that may hold a filesystem.
 *
 * `name` is what people type and what the mount shows: `<disk>-p<N>` (the partition's number in its table), `<disk>-whole` (no table),
 * `<vg>-<lv>`, `md-<name>`; of a Btrfs with subvolumes one volume for all, whose tree has them as directories.
 */
export interface Volume {
  readonly name: string
  /** The disk it lies on alone; absent where it is spread over several. */
  readonly disk?: string
  /** As blkid says it: 'ext4', 'xfs', 'btrfs', 'ntfs', 'vfat', 'exfat', 'iso9660', 'crypto_LUKS', 'BitLocker', 'swap', ...; absent: nothing known was found. */
  readonly type?: string
  readonly label?: string
  readonly uuid?: string
  readonly sizeBytes: number
  /**
   * readable: `open` gives its tree. locked: after `unlock` it is readable, or is replaced by the volumes inside it.
   * unsupported: `reason` says why, and what to do instead. nothing: swap, empty space, a member of a volume that is listed itself.
   */
  readonly state: 'readable' | 'locked' | 'unsupported' | 'nothing'
  readonly reason?: string
  /** Whoever answered cannot read it, a whole system may: the appliance is to be asked. */
  readonly needs?: 'appliance'
}

export interface GuestFilesystems extends AsyncDisposable {
  /** In the order of disks and partitions, then volume groups and arrays. */
  volumes(options?: AbortOptions): Promise<readonly Volume[]>
  /** Opens LUKS and BitLocker. Throws 'wrong-guest-key' where the key does not fit. The key leaves this process only to who unlocks. */
  unlock(volume: string, key: Uint8Array, options?: AbortOptions): Promise<void>
  /** The same tree for each call. Throws 'guest-filesystem' with what its parser said where it cannot be opened. */
  open(volume: string, options?: AbortOptions): Promise<FileTree>
}

export type OpenGuest = (disks: readonly GuestDisk[], options?: AbortOptions) => Promise<GuestFilesystems>
