/**
 * A session that this process owns, as the commands see that act on it: commit, migrate, discard, show.
 *
 * What it is: one recovery with everything that its owner holds: the repository, the pinned point, the disks as they are read
 * below the overlays, QEMU's control connection where Lifeboat boots the VM (`qmp`), the overlays where the writes are ours
 * (`overlays`, of `export --writable`), the state file, and the ways out of it. It is the same for a live session (its server
 * runs, clients and guest are connected) and for a stopped one that a command has taken the lock of: `isServing` tells.
 *
 * What it guarantees:
 *  - One owner: while a LiveSession exists, no other process writes `session.json`, starts QEMU or opens the overlays.
 *  - `update` is durable before it resolves, calls are carried out one after the other, and each sees what the one before
 *    it wrote. What depends on a state is done after its `update` has resolved; what a state claims is durable before it.
 *  - `repin` follows the READER's rule for a change of point: the new pin is put (its id written down first), the point is
 *    proven committed, the state file says so durably, and only then the old pin goes. Killed at any step, the session has
 *    the pin of the point that its state names, and whatever other pin was left is in `otherPins` and removed later.
 *  - After `repin` the disks are read from the new point. Where the overlay has a block, nobody reads it from below, and
 *    everywhere else the new point must hold what the old one held: that is what a commit is, and the caller's promise.
 *  - `end` is carried out once; a second call waits for the first.
 *
 * What a command must do: honour the signal up to the step that cannot be taken back (it falls when the client goes, and
 * when the server is told to stop), leave the session usable when it throws, and report progress in bytes. It never
 * disposes anything of the session, and does not touch `state` but by `update` and `repin`.
 *
 * What it does not know: sockets and JSON lines (control-socket.ts), how NBD works, and what the commands are.
 */
import type { BlockReader } from '../block/block-device.ts'
import type { Clock } from '../core/clock.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { QmpClient } from '../hypervisor/qemu/qmp.ts'
import type { PointSummary, RecoveryPoint, Repository } from '../repository/repository.ts'
import type { GatedOverlays } from './gated-overlays.ts'
import type { QemuProcess } from './qemu-process.ts'
import type { SessionState } from './session-state.ts'

export interface LiveDisk {
  /** In the point, in the VM (device id), and as an export. */
  readonly name: string
  readonly size: number
  /** The disk as the point has it, below every overlay, through the session's cache. Follows `repin`. */
  readonly base: BlockReader
}

/**
 * stopped: QEMU ends in order, then the servers; overlays, state and pin stay, and `session resume` goes on.
 * discarded: QEMU is killed, the servers end, pins and folder go. Nothing is left.
 * migrated: QEMU is left alone (its disks are elsewhere now), the servers end, the pins go. The folder stays for QEMU's
 * sockets, and `session discard` removes it without touching QEMU, with pins that a store that was away still has. The command
 * removes the overlays' files.
 */
export type SessionEnd = 'stopped' | 'discarded' | 'migrated'

/** By name: those of every session, and what else one counts. */
export type SessionFigures = Readonly<Record<string, number>> & {
  readonly bytesRead: number
  readonly bytesFetched: number
  readonly cacheHits: number
}

export type ChangeState = (state: SessionState) => SessionState

export interface LiveSession {
  readonly name: string
  /** The session's own: a command may keep files there, named after itself. */
  readonly folder: string
  readonly clock: Clock
  readonly random: Random
  readonly repository: Repository
  /** False where the session is stopped and a command has taken it: no server, no QEMU, no clients. */
  readonly isServing: boolean
  /** Pinned. Changes with `repin`: ask anew after each. */
  point(): RecoveryPoint
  readonly disks: readonly LiveDisk[]
  state(): SessionState
  update(change: ChangeState): Promise<SessionState>
  /** The process that runs the guest; undefined for exports and stopped sessions. */
  readonly qemu: QemuProcess | undefined
  /** The control connection of that process, ours alone. Its socket `state().sockets.qmp` is for others. */
  readonly qmp: QmpClient | undefined
  /** Where the writes are ours: sessions of `export --writable`, live or stopped. */
  readonly overlays: GatedOverlays | undefined
  /**
   * Goes on against another point of the same disks. `change` is written together with the new point (names of bitmaps).
   * Throws what opening a point throws, and then nothing has changed.
   */
  repin(point: PointSummary, change?: ChangeState, options?: AbortOptions): Promise<void>
  figures(): SessionFigures
  end(how: SessionEnd): Promise<void>
}
