/** What the S3 fake does wrong, by a script that counts matching requests or by a seed. */
import type { Random } from '../../src/core/random.ts'

export type S3Operation =
  | 'PutObject'
  | 'GetObject'
  | 'HeadObject'
  | 'DeleteObject'
  | 'DeleteObjects'
  | 'ListObjectsV2'
  | 'ListObjectVersions'
  | 'GetObjectRetention'
  | 'PutObjectRetention'
  | 'GetObjectLegalHold'
  | 'PutObjectLegalHold'
  | 'HeadBucket'
  | 'GetBucketVersioning'
  | 'GetBucketLifecycleConfiguration'
  | 'GetObjectLockConfiguration'

export type S3Fault =
  /** Nothing is done; the answer is this error. */
  | { readonly kind: 'error'; readonly status: number; readonly code: string }
  /** It is done, and the answer is this error. */
  | { readonly kind: 'done-but-error'; readonly status: number; readonly code: string }
  /** An error without S3's XML, as a proxy gives it. */
  | { readonly kind: 'foreign-error'; readonly status: number }
  | { readonly kind: 'reset' }
  | { readonly kind: 'done-but-reset' }
  | { readonly kind: 'hang' }
  /** It is done, and nobody is told: the client repeats it later. */
  | { readonly kind: 'done-but-hang' }
  /** Announces the whole length, sends half, and resets, or falls silent. */
  | { readonly kind: 'half-body'; readonly ending: 'reset' | 'silence' }
  /** A byte each so many milliseconds: the answer's head, or its body from the middle on. */
  | { readonly kind: 'trickle'; readonly of: 'head' | 'body'; readonly everyMs: number }
  /** Announces and sends half, so that HTTP itself is content. */
  | { readonly kind: 'wrong-length' }
  | { readonly kind: 'extra-bytes' }
  | { readonly kind: 'wrong-body' }
  /** Ignores the range and sends the whole object. */
  | { readonly kind: 'whole-object' }
  /** A listing without its last entries, or an answer to a delete without some keys. */
  | { readonly kind: 'drop-entries' }
  /** A listing, whole by its own figures, that does not have the newest object yet. */
  | { readonly kind: 'hide-newest' }
  | { readonly kind: 'delay'; readonly ms: number }

export interface S3FaultRule {
  readonly operation?: S3Operation
  readonly key?: RegExp
  /** From the so-manieth matching request on, counted from 1 ... */
  readonly nth?: number
  /** ... this many times. */
  readonly times?: number
  readonly fault: S3Fault
}

export interface S3FaultPlan {
  readonly fired: readonly { readonly operation: S3Operation; readonly key: string; readonly fault: S3Fault }[]
  draw(operation: S3Operation, key: string): S3Fault | undefined
  /** Adds a rule, which counts from now on. */
  add(rule: S3FaultRule): void
}

export interface SeededS3Faults {
  readonly random: Random
  readonly probability: number
  readonly faults: readonly S3Fault[]
  /** Any operation where absent. */
  readonly operations?: readonly S3Operation[]
  /** Faults are drawn while this is true; always where absent. */
  readonly isOn?: () => boolean
}

export function s3FaultPlan(rules: readonly S3FaultRule[], seeded?: SeededS3Faults): S3FaultPlan {
  const counted = rules.map(rule => ({ rule, seen: 0 }))
  const fired: { operation: S3Operation; key: string; fault: S3Fault }[] = []

  function due(operation: S3Operation, key: string): S3Fault | undefined {
    let fault: S3Fault | undefined
    for (const entry of counted) {
      const { rule } = entry
      if (rule.operation !== undefined && rule.operation !== operation) continue
      if (rule.key !== undefined && !rule.key.test(key)) continue
      entry.seen++
      const first = rule.nth ?? 1
      if (entry.seen >= first && entry.seen < first + (rule.times ?? 1)) fault ??= rule.fault
    }
    return fault
  }

  function drawSeeded(operation: S3Operation): S3Fault | undefined {
    if (!seeded || seeded.isOn?.() === false || seeded.operations?.includes(operation) === false) return undefined
    const [low = 0, high = 0, which = 0] = seeded.random(3)
    return high * 256 + low < seeded.probability * 65_536 ? seeded.faults[which % seeded.faults.length] : undefined
  }

  return {
    fired,
    add: rule => counted.push({ rule, seen: 0 }),
    draw(operation, key) {
      const fault = due(operation, key) ?? drawSeeded(operation)
      if (fault) fired.push({ operation, key, fault })
      return fault
    },
  }
}

/** What any store does now and then: it errs, answers nothing of what it did, and breaks off. */
export const passingS3Faults: readonly S3Fault[] = [
  { kind: 'error', status: 500, code: 'InternalError' },
  { kind: 'error', status: 503, code: 'SlowDown' },
  { kind: 'done-but-error', status: 500, code: 'InternalError' },
  { kind: 'done-but-reset' },
  { kind: 'reset' },
  { kind: 'half-body', ending: 'reset' },
]
