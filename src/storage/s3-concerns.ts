/**
 * Rules of a bucket that would break a repository in it. They act long after they were set, when nobody thinks of them:
 * objects that must be removable get locked, or objects that must stay vanish or answer only after hours.
 */
import type { LifecycleRule } from '@aws-sdk/client-s3'
import type { StoreConcern } from './object-store.ts'
import type { BucketFeatures } from './s3-features.ts'

/** Of these an object is read only after a restore of hours, and then for some days. Other classes answer at once. */
const ARCHIVES: ReadonlySet<string | undefined> = new Set(['GLACIER', 'DEEP_ARCHIVE'])

/** `base` is the store's prefix with its '/', or ''. */
export const concernsOf = (
  features: BucketFeatures,
  rules: readonly LifecycleRule[],
  base: string,
): readonly StoreConcern[] => [
  ...retentionConcerns(features),
  ...rules.filter(rule => touches(rule, base)).flatMap(rule => lifecycleConcerns(rule, features)),
]

function retentionConcerns({ defaultRetention }: BucketFeatures): StoreConcern[] {
  if (!defaultRetention) return []
  const { Mode = 'retention', Days, Years } = defaultRetention
  const time = Years === undefined ? `${Days} days` : `${Years} years`
  return [
    {
      what: 'default-retention',
      message: `The bucket locks every new object for ${time} (${Mode}), also leases and marks, which have to be removed again`,
      hint: 'Take the default retention off the bucket and keep Object Lock enabled: Lifeboat locks what needs it.',
    },
  ]
}

/** A rule for objects with a tag never meets ours: they have none. */
function touches({ Status, Prefix, Filter }: LifecycleRule, base: string): boolean {
  if (Status !== 'Enabled') return false
  if (Filter?.Tag !== undefined || (Filter?.And?.Tags ?? []).length > 0) return false
  const prefix = Filter?.Prefix ?? Filter?.And?.Prefix ?? Prefix ?? ''
  return prefix.startsWith(base) || base.startsWith(prefix)
}

function lifecycleConcerns(rule: LifecycleRule, { objectLock }: BucketFeatures): StoreConcern[] {
  const name = `The lifecycle rule '${rule.ID ?? ''}' of the bucket`
  const hint =
    "Remove the rule, or limit it to a prefix that is not the repository's: Lifeboat removes what it no longer needs."
  const concerns: StoreConcern[] = []
  if (rule.Expiration?.Days !== undefined || rule.Expiration?.Date !== undefined)
    concerns.push({
      what: 'lifecycle-expiry',
      message: `${name} deletes objects of a certain age, however needed`,
      hint,
    })
  // Without locks nobody relies on old versions. With them the old version is the original of what a thief wrote over.
  else if (objectLock && rule.NoncurrentVersionExpiration !== undefined)
    concerns.push({
      what: 'lifecycle-expiry',
      message: `${name} deletes old versions: the originals of objects that somebody overwrote or deleted`,
      hint,
    })
  if ((rule.Transitions ?? []).some(({ StorageClass }) => ARCHIVES.has(StorageClass)))
    concerns.push({
      what: 'lifecycle-archive',
      message: `${name} moves objects to an archive, from which they are not read for hours`,
      hint,
    })
  return concerns
}
