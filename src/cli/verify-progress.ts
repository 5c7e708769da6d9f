/**
 * What an interrupted verify has proven, so that the next one goes on: a bit for each chunk. Tree nodes are read again; they lead
 * to the chunks. It holds proof and nothing else: what failed is read again, what was never read is not in it.
 */
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { messageOf } from '../core/errors.ts'
import { hex, packId, type RepositoryId, unhex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { PlaceSet } from '../repository/place-set.ts'

export interface ProgressScope {
  readonly stateDir: string
  readonly repository: RepositoryId
  /** What was asked for, in words: another question begins anew. */
  readonly asked: string
}

/** Written so often; what is younger is lost with a process that is killed. */
const SAVE_MS = 20_000
const MAGIC = 'lifeboat-verify-1\n'
const DIGEST_BYTES = 32

export class VerifyProgress {
  readonly proven: PlaceSet
  /** When the first of the runs began: no chunk was proven before. */
  readonly began: Date
  /** Whether an earlier run is gone on with. */
  readonly isResumed: boolean
  readonly #scope: ProgressScope
  readonly #file: string
  readonly #clock: Clock
  readonly #warn: (message: string) => void
  #savedMs: number
  #saving: Promise<void> | undefined

  private constructor(
    scope: ProgressScope,
    clock: Clock,
    earlier: Earlier | undefined,
    warn: (message: string) => void,
  ) {
    this.proven = earlier?.proven ?? new PlaceSet()
    this.began = earlier?.began ?? clock.now()
    this.isResumed = earlier !== undefined
    this.#scope = scope
    this.#file = fileOf(scope)
    this.#clock = clock
    this.#warn = warn
    this.#savedMs = clock.monotonicMs()
  }

  static async load(
    scope: ProgressScope,
    { clock, restart, warn }: { clock: Clock; restart: boolean; warn: (message: string) => void },
  ): Promise<VerifyProgress> {
    const file = fileOf(scope)
    if (restart) await rm(file, { force: true })
    const earlier = restart ? undefined : await readEarlier(file, scope)
    const ageMs = earlier ? clock.now().getTime() - earlier.began.getTime() : 0
    const isFresh = ageMs >= 0 && ageMs < limits.verifyProgressLifeMs
    return new VerifyProgress(scope, clock, isFresh ? earlier : undefined, warn)
  }

  /** To be called often. Saves now and then, behind the caller. */
  tick(): void {
    if (this.#saving || this.#clock.monotonicMs() - this.#savedMs < SAVE_MS) return
    this.#saving = this.#write().finally(() => {
      this.#savedMs = this.#clock.monotonicMs()
      this.#saving = undefined
    })
  }

  /** At an interruption. */
  async save(): Promise<void> {
    await this.#saving
    await this.#write()
  }

  /** At the end: nothing is left to go on with. */
  async finish(): Promise<void> {
    await this.#saving
    await rm(this.#file, { force: true })
  }

  /** Never throws: a verify that cannot be resumed is a verify all the same. */
  async #write(): Promise<void> {
    try {
      const bytes = encode(this.#scope, this.began, this.proven)
      if (bytes.length > limits.verifyProgressMax) return
      await mkdir(path.dirname(this.#file), { recursive: true, mode: 0o700 })
      await writeFile(`${this.#file}.${process.pid}`, bytes, { mode: 0o600 })
      await rename(`${this.#file}.${process.pid}`, this.#file)
    } catch (error) {
      this.#warn(`how far this came cannot be kept in ${this.#file}: ${messageOf(error)}`)
    }
  }
}

interface Earlier {
  readonly proven: PlaceSet
  readonly began: Date
}

const fileOf = ({ stateDir, repository, asked }: ProgressScope): string =>
  path.join(stateDir, 'verify', `${repository}-${createHash('sha256').update(asked).digest('hex').slice(0, 16)}`)

function encode({ repository, asked }: ProgressScope, began: Date, proven: PlaceSet): Uint8Array {
  const head = `${MAGIC}${JSON.stringify({ repository, asked, began: began.toISOString() })}\n`
  const parts: Uint8Array[] = [Buffer.from(head)]
  for (const [pack, bits] of proven.entries()) {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bits.length)
    parts.push(unhex(pack), length, bits)
  }
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return Buffer.concat([...parts, hash.digest()])
}

/** Undefined for anything but what `encode` wrote for the same question: a damaged file proves nothing. */
async function readEarlier(file: string, { repository, asked }: ProgressScope): Promise<Earlier | undefined> {
  try {
    if ((await stat(file)).size > limits.verifyProgressMax) return undefined
    const bytes = await readFile(file)
    const content = bytes.subarray(0, bytes.length - DIGEST_BYTES)
    const digest = createHash('sha256').update(content).digest()
    if (Buffer.compare(digest, bytes.subarray(content.length)) !== 0) return undefined
    const headEnd = content.indexOf('\n', MAGIC.length)
    if (content.toString('latin1', 0, MAGIC.length) !== MAGIC || headEnd < 0) return undefined
    const head: unknown = JSON.parse(content.toString('utf8', MAGIC.length, headEnd))
    if (typeof head !== 'object' || head === null || !('began' in head && 'repository' in head && 'asked' in head))
      return undefined
    if (head.repository !== repository || head.asked !== asked || typeof head.began !== 'string') return undefined
    const proven = new PlaceSet()
    for (let at = headEnd + 1; at < content.length; ) {
      const length = content.readUInt32BE(at + 16)
      proven.set(
        packId(hex(content.subarray(at, at + 16))),
        Uint8Array.from(content.subarray(at + 20, at + 20 + length)),
      )
      at += 20 + length
    }
    const began = new Date(head.began)
    return Number.isNaN(began.getTime()) ? undefined : { proven, began }
  } catch {
    return undefined
  }
}
