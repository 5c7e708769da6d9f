/**
 * Hypervisor: one instant of all disks of one running VM.
 *
 * What it is: the contract between the capture path and QEMU, libvirt or a set of plain image files.
 * What it guarantees: `capture` resolves when all disks are frozen at one instant and the guest runs (thawed) again; the
 * views stay readable until dispose, which removes everything that was put into the hypervisor, whatever happened.
 * Trouble with the repository or the fleecing image breaks the capture, never the guest.
 * What it does not know: repositories, chunks, encryption.
 */
import type { BlockReader } from '../block/block-device.ts'
import type { ChangeSet } from '../cbt/change-tracker.ts'
import type { PointId, RepositoryId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'

/** What an old point needs in order to boot as what it was. Stored in the manifest as JSON. */
export interface VmDescription {
  readonly name: string
  readonly uuid?: string
  /** 'pc', 'q35', ... as QEMU names it, with its version where known ('pc-i440fx-7.2'). */
  readonly machine?: string
  readonly memoryBytes?: number
  readonly cpus?: number
  readonly cpuModel?: string
  readonly firmware?: {
    readonly kind: 'bios' | 'uefi'
    readonly codePath?: string /** The variable store, whole; binary, kept beside the JSON. */
    readonly variables?: Uint8Array
  }
  readonly nics?: readonly { readonly model?: string; readonly mac: string }[]
  readonly hypervisor?: { readonly kind: string; readonly version?: string }
}

export interface DiskDescription {
  /** The qdev id, else the node name; for plain images the name the user gave. Unique in the VM. */
  readonly name: string
  /** Bytes. */
  readonly size: number
  readonly format?: string
  /** 'virtio-blk', 'nvme', 'scsi', 'ide', ... */
  readonly bus?: string
  readonly bootIndex?: number
  readonly serial?: string
}

export interface CapturedDisk {
  readonly description: DiskDescription
  readonly image: BlockReader
  readonly changes: ChangeSet
  /** The point since which `changes` holds; absent where all must be read. Disks of one VM may differ in it. */
  readonly base?: PointId
  /** Read of the source already in order to find the changes: by a scan, which reads all that is no hole. */
  readonly bytesScanned?: number
}

/** A device that is left out on purpose, named so that nobody believes it is protected. */
export interface OmittedDisk {
  readonly name: string
  readonly reason: 'removable' | 'read-only' | 'pass-through' | 'not-selected' | 'no-medium'
}

/** One instant of all disks of one VM. The guest is thawed before this exists; dispose drops the views. */
export interface Capture extends AsyncDisposable {
  readonly vm: VmDescription
  readonly consistency: 'application' | 'filesystem' | 'crash'
  readonly takenAt: Date
  readonly disks: readonly CapturedDisk[]
  readonly omitted: readonly OmittedDisk[]
  /** Rejects when the frozen view breaks (fleecing image full, guest gone). Never resolves; is handled by the capture path only. */
  readonly broken: Promise<never>
  /**
   * The point is durable: its checkpoint becomes the base of the next increment, the older bitmap goes.
   * Without this call, dispose merges the bitmaps back so that the next capture still sees every change since `base`.
   */
  committed(options?: AbortOptions): Promise<void>
}

export interface CaptureRequest extends AbortOptions {
  readonly repository: RepositoryId
  /** The id that the new point will have: the new bitmap bears it. */
  readonly point: PointId
  /**
   * Points of this VM that the repository holds and that may serve as a base, newest first, with each disk's size.
   * A bitmap of ours that names none of them is foreign.
   */
  readonly bases: readonly {
    readonly id: PointId
    readonly disks: readonly { readonly name: string; readonly size: number }[]
  }[]
  /** 'incremental' takes the newest base whose bitmap is there; 'full' reads all (and still rotates the bitmaps). */
  readonly kind: 'incremental' | 'full'
  readonly disks?: readonly string[]
  /** Where fleecing images go: a folder with room for what the guest overwrites during the backup. */
  readonly fleecingDir: string
  /** Told while a disk without a bitmap is read whole in order to compare it: `bytesDone` of its `bytesTotal` bytes of data. */
  readonly scanned?: (disk: string, bytesDone: number, bytesTotal: number) => void
}

export interface Hypervisor extends AsyncDisposable {
  /** Says who else is at it with 'vm-busy' when another backup of this VM runs. */
  capture(request: CaptureRequest): Promise<Capture>
}
