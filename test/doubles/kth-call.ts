/** A piece of work whose k-th request to the store fails, for every k until none does, and what must be true after each. */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../src/core/errors.ts'
import type { MemoryStore } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { intercepted, type StoreRequest } from './intercepted-store.ts'

export interface FailingWork {
  /** What is there before, each time anew. */
  readonly begin: () => MemoryStore | Promise<MemoryStore>
  /** `seed` differs from call to call: no two hosts draw the same. */
  readonly work: (store: ObjectStore, seed: string) => Promise<void>
  /** Whatever has failed. */
  readonly unharmed: (store: MemoryStore) => Promise<void>
  /** When it was done, at the first attempt or the second: also where a failure was not told. */
  readonly finished?: (store: MemoryStore) => Promise<void>
}

export const injected = () => new LifeboatError('store-failed', 'the request was refused on purpose')

const isInjected = (error: unknown): boolean =>
  /refused on purpose/.test(String(error)) || (isLifeboatError(error) && isInjectedCause(error.cause))
const isInjectedCause = (cause: unknown): boolean => cause !== undefined && isInjected(cause)

export async function failEachCall(
  t: TestContext,
  { begin, work, unharmed, finished = async () => {} }: FailingWork,
): Promise<void> {
  const unhandled: unknown[] = []
  const note = (error: unknown) => unhandled.push(error)
  process.on('unhandledRejection', note)
  t.after(() => process.off('unhandledRejection', note))
  let failed = 0
  let k = 0
  for (;;) {
    const store = await begin()
    const { fired, failure } = await attempt(store, work, ++k)
    if (!fired) {
      assert.equal(failure, undefined, 'without a failure it works')
      await finished(store)
      break
    }
    const where = `${fired.verb} ${fired.key} (request ${k})`
    if (failure !== undefined) {
      failed++
      assert.ok(isInjected(failure), `${where}: ended with ${failure}`)
    }
    try {
      await unharmed(store)
      if (failure === undefined) await finished(store)
      await work(intercepted(store, {}), `again ${k}`).catch(error => {
        // What was done although its last request failed is there, and cannot be done twice.
        if (failure !== undefined) throw error
      })
      await finished(store)
    } catch (error) {
      throw new Error(`after ${where}: ${error instanceof Error ? error.message : error}`, { cause: error })
    }
  }
  await new Promise(resolve => setImmediate(resolve))
  assert.deepEqual(unhandled, [])
  assert.ok(failed > 2, `${failed} of ${k - 1} failures were told`)
  t.diagnostic(`${k - 1} requests were refused in turn, ${failed} of them ended the work`)
}

async function attempt(store: MemoryStore, work: FailingWork['work'], k: number) {
  let requests = 0
  let fired: StoreRequest | undefined
  const before = (request: StoreRequest) => {
    if (++requests !== k) return
    fired = request
    throw injected()
  }
  let failure: unknown
  try {
    await work(intercepted(store, { before }), `k ${k}`)
  } catch (error) {
    failure = error
  }
  return { fired, failure }
}
