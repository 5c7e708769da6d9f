/**
 * Runs several actors over one store in every order that their requests can come in. Each run is a list of choices: whose
 * next request goes on; after a run, the last choice that had an alternative takes it.
 */
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { intercepted, type StoreRequest } from './intercepted-store.ts'

interface Actor {
  readonly store: ObjectStore
  readonly work: (store: ObjectStore) => Promise<void>
  /** Whether this request waits for its turn. Those that commute with all others need none. */
  readonly takesTurn: (request: StoreRequest) => boolean
}

/** `prepare` makes the actors of one run afresh; `inspect` looks at what the run left. Gives the number of runs. */
export async function everyOrder<T>(
  prepare: () => Promise<{ readonly state: T; readonly actors: readonly Actor[] }>,
  inspect: (state: T) => Promise<void>,
): Promise<number> {
  let choices: number[] = []
  for (let runs = 1; ; runs++) {
    const { state, actors } = await prepare()
    const widths = await run(actors, choices)
    await inspect(state)
    const taken = widths.map((_, at) => choices[at] ?? 0)
    const last = taken.findLastIndex((choice, at) => choice + 1 < widths[at]!)
    if (last < 0) return runs
    choices = [...taken.slice(0, last), taken[last]! + 1]
  }
}

/** Gives how many actors there were to choose from at each step. */
async function run(actors: readonly Actor[], choices: readonly number[]): Promise<readonly number[]> {
  const waiting = new Map<number, () => void>()
  /** Resolves when the actor waits for its turn, or has ended. */
  const settled = actors.map(() => Promise.withResolvers<void>())
  const all = actors.map(async ({ store, work, takesTurn }, n) => {
    const gated = intercepted(store, {
      async before(request) {
        if (!takesTurn(request)) return
        const turn = Promise.withResolvers<void>()
        waiting.set(n, turn.resolve)
        settled[n]!.resolve()
        await turn.promise
      },
    })
    try {
      await work(gated)
    } finally {
      settled[n]!.resolve()
    }
  })
  const widths: number[] = []
  await Promise.all(settled.map(({ promise }) => promise))
  while (waiting.size > 0) {
    const ready = [...waiting.keys()].sort()
    const chosen = ready[choices[widths.length] ?? 0]!
    widths.push(ready.length)
    const go = waiting.get(chosen)!
    waiting.delete(chosen)
    settled[chosen] = Promise.withResolvers<void>()
    go()
    await settled[chosen]!.promise
  }
  await Promise.all(all)
  return widths
}
