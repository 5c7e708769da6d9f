/**
 * One error class with a stable code. `code` explains what happened and is listed in docs/operations.md with what to do;
 * `retry` decides what happens next: only the `retrying` store decorator acts on 'transient'.
 */
export type ErrorCode =
  // usage and configuration: exit code 2
  | 'usage'
  | 'not-a-repository'
  | 'repository-exists'
  | 'newer-format'
  | 'key-missing'
  | 'key-wrong'
  | 'output-exists'
  | 'no-such-vm'
  | 'no-such-point'
  | 'no-such-disk'
  | 'no-such-session'
  | 'no-such-file'
  | 'no-such-volume'
  | 'ambiguous'
  | 'qmp-unreachable'
  | 'tool-missing'
  | 'session-exists'
  | 'session-busy'
  | 'last-key'
  | 'key-unavailable'
  | 'store-unsuitable'
  | 'tls-credentials'
  // sessions and outputs on this host
  | 'session-damaged'
  | 'session-newer'
  | 'overlay-damaged'
  | 'local-copy-damaged'
  | 'output-failed'
  | 'tool-failed'
  | 'file-failed'
  // stores
  | 'store-not-found'
  | 'store-unreachable'
  | 'store-throttled'
  | 'store-denied'
  | 'store-full'
  | 'store-bucket-missing'
  | 'store-failed'
  | 'store-conflict'
  | 'store-locked'
  // integrity: exit code 4
  | 'corrupt-object'
  | 'missing-object'
  | 'absurd-object'
  | 'hidden-object'
  | 'rolled-back'
  | 'migration-differs'
  // the filesystems inside guests
  | 'wrong-guest-key'
  | 'guest-locked'
  | 'guest-unsupported'
  | 'guest-filesystem'
  | 'appliance-unavailable'
  | 'guest-lost'
  | 'guest-protocol'
  // protocol between hosts
  | 'not-committed'
  | 'point-forgotten'
  | 'lease-lost'
  | 'vm-busy'
  | 'point-protected'
  | 'clock-skew'
  | 'gc-stopped'
  // capture
  | 'qmp-failed'
  | 'guest-gone'
  | 'guest-agent-failed'
  | 'snapshot-broken'
  | 'fleecing-full'
  | 'disk-full'
  // NBD
  | 'nbd-protocol'
  | 'nbd-refused'
  | 'nbd-io'
  // the mount
  | 'mount-point'
  | 'fuse-unavailable'
  | 'fuse-failed'
  | 'too-many-open'
  | 'interrupted'
  | 'internal'

export interface ErrorDetails {
  /** The store's key or the file that is affected. */
  readonly object?: string
  /** What the person should do, one sentence. */
  readonly hint?: string
  readonly [name: string]: unknown
}

export class LifeboatError extends Error {
  override readonly name = 'LifeboatError'
  readonly code: ErrorCode
  readonly retry: 'transient' | 'permanent'
  readonly details: ErrorDetails

  constructor(
    code: ErrorCode,
    message: string,
    options: { retry?: 'transient' | 'permanent'; details?: ErrorDetails; hint?: string; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.code = code
    this.retry = options.retry ?? 'permanent'
    this.details = options.hint === undefined ? (options.details ?? {}) : { ...options.details, hint: options.hint }
  }
}

export const isLifeboatError = (error: unknown, code?: ErrorCode): error is LifeboatError =>
  error instanceof LifeboatError && (code === undefined || error.code === code)

const INTEGRITY: ReadonlySet<ErrorCode> = new Set([
  'corrupt-object',
  'missing-object',
  'absurd-object',
  'hidden-object',
  'rolled-back',
  'migration-differs',
])

export const isIntegrityCode = (code: ErrorCode): boolean => INTEGRITY.has(code)

/** True where stored bytes are wrong, missing or nonsensical: fail closed, never retry past one refetch. */
export const isIntegrityError = (error: unknown): error is LifeboatError =>
  error instanceof LifeboatError && isIntegrityCode(error.code)

/** A sentence for logs and people from whatever was thrown. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))
