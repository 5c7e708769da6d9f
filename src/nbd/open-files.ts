/**
 * Descriptors of this process: how many clients may have, and whether any are left. A server whose clients take them all can
 * open nothing to answer them from, and the kernel's refusal at accept reaches nobody: libuv closes the client without a word.
 */
import { open, readdir, readFile } from 'node:fs/promises'
import { limits } from '../core/limits.ts'
import type { NbdLog } from './log-line.ts'

export interface DescriptorRoom {
  /** How many this process may have; infinite where the kernel does not say. */
  readonly max: number
  /** Of these what clients may take: what is free, but for what reading and writing needs. */
  readonly forClients: number
}

export async function descriptorRoom(): Promise<DescriptorRoom> {
  const [text, open] = await Promise.all([
    readFile('/proc/self/limits', 'utf8').catch(() => ''),
    readdir('/proc/self/fd').catch(() => []),
  ])
  const max = Number(/^Max open files\s+(\d+)/m.exec(text)?.[1] ?? Number.POSITIVE_INFINITY)
  const free = max - open.length
  return { max, forClients: Math.max(2, free - Math.min(Math.ceil(free / 2), limits.descriptorsKept)) }
}

/** Says once that there are none left, and once that there are again. */
export class DescriptorWatch {
  readonly #log: NbdLog
  #probing: Promise<void> | undefined
  #areGone = false

  constructor(log: NbdLog) {
    this.#log = log
  }

  look(): void {
    this.#probing ??= this.#probe().finally(() => {
      this.#probing = undefined
    })
  }

  async settled(): Promise<void> {
    await this.#probing
  }

  async #probe(): Promise<void> {
    const code = await open('/dev/null').then(
      async file => {
        await file.close()
        return undefined
      },
      (error: NodeJS.ErrnoException) => error.code,
    )
    const areGone = code === 'EMFILE' || code === 'ENFILE'
    if (areGone && !this.#areGone)
      this.#log(
        `no file can be opened (${code}): new clients are turned away and what needs a file waits; raise the limit of open files (ulimit -n, or LimitNOFILE= of the unit)`,
      )
    if (!areGone && this.#areGone) this.#log('files can be opened again')
    this.#areGone = areGone
  }
}
