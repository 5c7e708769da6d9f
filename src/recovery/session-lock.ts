/**
 * One owner of a session: the process that serves it, named by pid and start time in a file that link(2) puts in place whole.
 * A dead owner's file is taken over; a living one's is not.
 */
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import type { Random } from '../core/random.ts'
import { isAlive, lockFile, type Runner, readLock } from '../hypervisor/run-lock.ts'

const OWNER = 'owner'

/** The living owner of the session in this folder. */
export async function ownerOf(folder: string): Promise<Runner | undefined> {
  const runner = await readLock(path.join(folder, OWNER))
  return runner && (await isAlive(runner)) ? runner : undefined
}

/** Throws 'session-busy' with who has it. */
export const lockSession = (folder: string, name: string, random: Random): Promise<AsyncDisposable> =>
  lockFile(path.join(folder, OWNER), random, owner => busy(name, owner))

export const busy = (name: string, owner: Runner | undefined): LifeboatError =>
  new LifeboatError('session-busy', `session ${name} is served by process ${owner?.pid ?? '?'}`, {
    details: { session: name, pid: owner?.pid },
    hint: owner ? `End it first: kill -TERM ${owner.pid}` : 'Try again.',
  })
