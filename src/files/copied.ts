/** What copying nodes out of a tree is told and tells, whether they become files of this host (copy-out.ts) or a tar (tar.ts). */
import type { AbortOptions } from '../core/scope.ts'
import type { Problems } from './problems.ts'

export interface CopyOptions extends AbortOptions {
  /** Device nodes too. Without it they are left out and named. */
  readonly devices?: boolean
  /** Set-user-id, set-group-id (of directories it is always kept) and capabilities too. Without it files come without them, and are named. */
  readonly setuid?: boolean
  /** Called often, at the caller's own time: what was copied so far. */
  readonly onProgress?: (counts: CopyCounts) => void
}

export interface CopyCounts {
  readonly files: number
  readonly directories: number
  /** Symlinks, fifos, sockets and devices. */
  readonly others: number
  /** Further names of files that were copied already. */
  readonly hardLinks: number
  /** Contents without holes. */
  readonly bytes: number
  /** Files of an interrupted run before this one that were complete; not among `files`, nor their bytes. */
  readonly resumed: number
}

/** Partly done, exit code 3, where there is any problem; 4 where one of them is of integrity. */
export interface Copied extends CopyCounts {
  readonly problems: Problems
}
