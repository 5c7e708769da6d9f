/**
 * One owner of a session: the process that serves it, named by pid and start time in a file that link(2) puts in place whole.
 * A dead owner's file is taken over; a living one's is not.
 */
import { link, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import { isAlive, parseRunner, type Runner, removeDead, runnerText, thisRunner } from '../hypervisor/run-lock.ts'

const OWNER = 'owner'

/** The living owner of the session in this folder. */
export async function ownerOf(folder: string): Promise<Runner | undefined> {
  const text = await readFile(path.join(folder, OWNER), 'utf8').catch(() => '')
  const runner = parseRunner(text)
  return runner && (await isAlive(runner)) ? runner : undefined
}

/** Throws 'session-busy' with who has it. */
export async function lockSession(folder: string, name: string, random: Random): Promise<AsyncDisposable> {
  const file = path.join(folder, OWNER)
  const own = runnerText(await thisRunner())
  const draft = `${file}.${hex(random(4))}`
  await writeFile(draft, `${own}\n`, { mode: 0o600 })
  try {
    for (let attempt = 0; !(await linked(draft, file)); attempt++) {
      const owner = await ownerOf(folder)
      if (owner || attempt >= 3) throw busy(name, owner)
      await removeDead(file)
    }
  } finally {
    await rm(draft, { force: true })
  }
  return {
    async [Symbol.asyncDispose]() {
      const holder = await readFile(file, 'utf8').catch(() => '')
      if (holder.trim() === own) await rm(file, { force: true })
    },
  }
}

export const busy = (name: string, owner: Runner | undefined): LifeboatError =>
  new LifeboatError('session-busy', `session ${name} is served by process ${owner?.pid ?? '?'}`, {
    details: { session: name, pid: owner?.pid },
    hint: owner ? `End it first: kill -TERM ${owner.pid}` : 'Try again.',
  })

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
}
