/** Ways to choose who goes on. Uniform choice rarely starves anybody for long; the stories that lose data need just that. */
import type { Dice } from './dice.ts'
import type { Ready, Strategy } from './scheduler.ts'

/** Drawn anew for each walk. */
export function drawStrategy(dice: Dice, processes: readonly string[]): Strategy {
  // How willingly time passes for somebody who waits while others could work: leases are judged dead by it.
  const haste = dice.pick([0, 0.02, 0.1, 0.5])
  const tick = dice.pick([0, 0.01, 0.05])
  const kind = dice.roll(10)
  if (kind < 2) return uniform(dice, haste, tick)
  if (kind < 5) return bursts(dice, haste, tick)
  return priorities(dice, processes, haste, tick)
}

/** A process runs until it is about to do what `before` matches, or has ended. */
export interface Phase {
  readonly process: string
  readonly before?: RegExp
}

/** Makes one story likely: these phases one after the other, now and then somebody else's step between, then as drawn. */
export function steered(dice: Dice, phases: readonly Phase[], otherwise: Strategy): Strategy {
  const noise = dice.pick([0, 0, 0.01, 0.05])
  let at = 0
  return {
    tick: 0,
    choose(ready, step) {
      for (; at < phases.length; at++) {
        if (dice.chance(noise)) break
        const { process, before } = phases[at]!
        const found = ready.find(({ name }) => name === process)
        if (found && !(before && found.labels.some(label => before.test(label)))) return found
      }
      return otherwise.choose(ready, step)
    },
  }
}

/** Sleepers and late requests come in with probability `haste`; when nobody has a request, always. */
function eligible(dice: Dice, ready: readonly Ready[], haste: number): readonly Ready[] {
  const busy = ready.filter(({ kind }) => kind === 'requests')
  if (busy.length === 0 || dice.chance(haste)) return ready
  return busy
}

function uniform(dice: Dice, haste: number, tick: number): Strategy {
  return { tick, choose: ready => dice.pick(eligible(dice, ready, haste)) }
}

/** Whoever is at work goes on for a while. */
function bursts(dice: Dice, haste: number, tick: number): Strategy {
  const change = dice.pick([0.05, 0.15, 0.3])
  let current: string | undefined
  return {
    tick,
    choose: ready => {
      const among = eligible(dice, ready, haste)
      const same = among.find(({ name }) => name === current)
      if (same && !dice.chance(change)) return same
      const next = dice.pick(among)
      current = next.name
      return next
    },
  }
}

/**
 * Probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): the process of highest priority runs, and at a few
 * steps chosen beforehand it falls below all others. Finds what needs d such changes with a probability that is known.
 */
function priorities(dice: Dice, processes: readonly string[], haste: number, tick: number): Strategy {
  const order = shuffled(dice, [...processes, 'network'])
  const changes = new Set(Array.from({ length: 1 + dice.roll(6) }, () => dice.roll(250)))
  return {
    tick,
    choose: (ready, step) => {
      const among = eligible(dice, ready, haste)
      const best = [...among].sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name))[0]
      if (best && changes.has(step)) {
        order.splice(order.indexOf(best.name), 1)
        order.push(best.name)
      }
      return best
    },
  }
}

function shuffled<T>(dice: Dice, items: readonly T[]): T[] {
  const left = [...items]
  const out: T[] = []
  while (left.length > 0) out.push(...left.splice(dice.roll(left.length), 1))
  return out
}
