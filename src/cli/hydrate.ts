/** The flags of `--hydrate`. */
import type { Command } from 'commander'
import { LifeboatError } from '../core/errors.ts'
import type { HydrateRequest } from '../recovery/hydration.ts'
import { parseRate } from './units.ts'

export interface HydrateFlags {
  readonly hydrate?: boolean
  readonly hydrateRate?: string
}

export const hydrateOptions = (command: Command): Command =>
  command
    .option(
      '--hydrate',
      'copy the rest of the point to this host beside the guest; then the session needs the repository no more',
    )
    .option(
      '--hydrate-rate <rate>',
      'bytes a second of that copy, for example 50MiB; what the guest reads is not slowed',
    )

export function hydrateOf({ hydrate, hydrateRate }: HydrateFlags): HydrateRequest | undefined {
  if (!hydrate && hydrateRate !== undefined)
    throw new LifeboatError('usage', '--hydrate-rate goes with --hydrate', { hint: 'say both, or neither' })
  if (!hydrate) return undefined
  if (hydrateRate === undefined) return {}
  return { bytesPerSecond: parseRate(hydrateRate, '--hydrate-rate') }
}
