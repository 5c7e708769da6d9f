/** The choices of a walk, repeatable from its seed. */
export interface Dice {
  /** 0 to n - 1. */
  roll(n: number): number
  chance(probability: number): boolean
  pick<T>(from: readonly T[]): T
}

export function dice(seed: number): Dice {
  // mulberry32: a walk makes some hundred choices, and a stream cipher for each would take longer than the step.
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const roll = (n: number) => Math.floor(next() * n)
  return {
    roll,
    chance: probability => next() < probability,
    pick: from => {
      if (from.length === 0) throw new RangeError('nothing to choose from')
      return from[roll(from.length)]!
    },
  }
}
