/** How far long work is, for whoever shows it. */
import type { AbortOptions } from '../core/scope.ts'

/** `done` of `total` of what `doing` says in words. A total may grow while it is found out. */
export type WorkProgress = (doing: string, done: number, total: number) => void

export interface WorkOptions extends AbortOptions {
  readonly progress?: WorkProgress
}
