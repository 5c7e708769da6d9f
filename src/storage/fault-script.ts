/** Which call gets which fault: by rules that count matching calls, or drawn from a seed. Records what fired. */
import type { ErrorCode } from '../core/errors.ts'
import type { Random } from '../core/random.ts'
import type { StoreVerb } from './metered.ts'

export type FaultVerb = StoreVerb

interface Failure {
  readonly code?: ErrorCode
  readonly retry?: 'transient' | 'permanent'
}

export type Fault =
  /** The store is not asked. Without a code: 'store-unreachable', transient. */
  | ({ readonly kind: 'error' } & Failure)
  /** The store did it and answers an error. For a listing: after so many entries. */
  | ({ readonly kind: 'error-after'; readonly entries?: number } & Failure)
  | { readonly kind: 'delay'; readonly ms: number }
  /** get gives the first `keep` bytes, or half. */
  | { readonly kind: 'short-body'; readonly keep?: number }
  /** One bit of what get gives, or put stores, is flipped. */
  | { readonly kind: 'wrong-bytes'; readonly at?: number }

export interface FaultRule {
  /** Any verb where absent. */
  readonly verb?: FaultVerb
  /** The beginning of a key, or a pattern. Any key where absent. */
  readonly key?: string | RegExp
  /** Fires from the so-manieth matching call on, counted from 1 ... */
  readonly nth?: number
  /** ... this many times; Infinity for an outage. */
  readonly times?: number
  readonly fault: Fault
}

export interface FiredFault {
  readonly verb: FaultVerb
  readonly key: string
  readonly fault: Fault
}

interface Seeded {
  readonly random: Random
  readonly probability: number
  readonly faults: readonly Fault[]
}

export interface FaultScript {
  readonly fired: readonly FiredFault[]
  draw(verb: FaultVerb, key: string): Fault | undefined
}

/** The first rule that is due wins; every rule counts every call that matches it. */
export function faultScript(rules: readonly FaultRule[], seeded?: Seeded): FaultScript {
  const fired: FiredFault[] = []
  const seen = rules.map(() => 0)

  function dueFault(verb: FaultVerb, key: string): Fault | undefined {
    let due: Fault | undefined
    rules.forEach((rule, index) => {
      if (!matches(rule, verb, key)) return
      const count = ++seen[index]!
      const first = rule.nth ?? 1
      if (count >= first && count < first + (rule.times ?? 1)) due ??= rule.fault
    })
    return due
  }

  return {
    fired,
    draw(verb, key) {
      const fault = dueFault(verb, key) ?? (seeded && drawSeeded(seeded))
      if (fault) fired.push({ verb, key, fault })
      return fault
    },
  }
}

const matches = (rule: FaultRule, verb: FaultVerb, key: string): boolean =>
  (rule.verb === undefined || rule.verb === verb) &&
  (rule.key === undefined || (typeof rule.key === 'string' ? key.startsWith(rule.key) : rule.key.test(key)))

function drawSeeded({ random, probability, faults }: Seeded): Fault | undefined {
  const [low = 0, high = 0, which = 0] = random(3)
  return high * 256 + low < probability * 65_536 ? faults[which % faults.length] : undefined
}
