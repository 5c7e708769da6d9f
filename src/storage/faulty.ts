/**
 * A store that fails on purpose, by a script or by a seed: for drills on a real repository and for tests of everything
 * above. It records what fired. Faults below the contract (short and wrong bytes) show whether the layers above notice.
 *
 * A mutation is one object stored, removed or locked; a delete of several keys is as many mutations, because a crash can fall
 * between them. `onMutation` is called before and after each: it may end the process, or throw, after which the store is
 * dead and every further call fails with the same error, like a host that lost power.
 */
import { type Clock, systemClock } from '../core/clock.ts'
import { type ErrorCode, isLifeboatError, LifeboatError } from '../core/errors.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { checkKey } from './checks.ts'
import { type Fault, type FaultRule, type FaultVerb, type FiredFault, faultScript } from './fault-script.ts'
import type { ObjectStore } from './object-store.ts'
import { locked } from './store-errors.ts'
import type { VersionedStore } from './versioned-store.ts'

export interface MutationEvent {
  readonly when: 'before' | 'after'
  /** Counted from 1 over the life of the store. */
  readonly index: number
  readonly verb: 'put' | 'delete' | 'lock'
  readonly key: string
}

export interface FaultOptions {
  readonly script?: readonly FaultRule[]
  /** Each call draws one of `faults` with this probability. */
  readonly seeded?: { readonly random: Random; readonly probability: number; readonly faults: readonly Fault[] }
  readonly onMutation?: (event: MutationEvent) => void | Promise<void>
  readonly clock?: Clock
}

export interface FaultyStore extends ObjectStore {
  readonly fired: readonly FiredFault[]
  readonly mutationCount: number
}

export function faulty(inner: ObjectStore, options: FaultOptions = {}): FaultyStore {
  const { clock = systemClock, onMutation } = options
  const faults = faultScript(options.script ?? [], options.seeded)
  let mutationCount = 0
  let death: { readonly error: unknown } | undefined

  /** Draws the fault of this call and acts on those that come before the store is asked. */
  async function begin(verb: FaultVerb, key: string, options: AbortOptions = {}): Promise<Fault | undefined> {
    if (death) throw death.error
    const fault = faults.draw(verb, key)
    if (fault?.kind === 'error') throw failure(verb, key, fault.code, fault.retry)
    if (fault?.kind === 'delay') await clock.sleep(fault.ms, options)
    return fault
  }

  function finish(fault: Fault | undefined, verb: FaultVerb, key: string): void {
    if (fault?.kind === 'error-after') throw failure(verb, key, fault.code, fault.retry)
  }

  async function tellMutation(when: MutationEvent['when'], verb: MutationEvent['verb'], key: string): Promise<void> {
    if (when === 'before') mutationCount++
    try {
      await onMutation?.({ when, index: mutationCount, verb, key })
    } catch (error) {
      death = { error }
      throw error
    }
  }

  async function around<T>(verb: FaultVerb, key: string, options: AbortOptions | undefined, work: () => Promise<T>) {
    const fault = await begin(verb, key, options)
    const result = await work()
    finish(fault, verb, key)
    return result
  }

  const mutating = (
    verb: MutationEvent['verb'],
    key: string,
    options: AbortOptions | undefined,
    work: () => Promise<void>,
  ): Promise<void> =>
    around(verb, key, options, async () => {
      await tellMutation('before', verb, key)
      await work()
      await tellMutation('after', verb, key)
    })

  async function* listing<T>(prefix: string, options: AbortOptions | undefined, entries: AsyncIterable<T>) {
    const fault = await begin('list', prefix, options)
    let left = fault?.kind === 'error-after' ? (fault.entries ?? Number.POSITIVE_INFINITY) : Number.POSITIVE_INFINITY
    for await (const entry of entries) {
      if (left-- <= 0) break
      if (death) throw death.error
      yield entry
    }
    finish(fault, 'list', prefix)
  }

  const faultyVersions = (versioned: VersionedStore): VersionedStore => ({
    features: options => around('lock', '', options, () => versioned.features(options)),
    versions: (prefix, options) => listing(prefix, options, versioned.versions(prefix, options)),
    async getVersion(key, versionId, range, options) {
      const fault = await begin('get', key, options)
      const bytes = await versioned.getVersion(key, versionId, range, options)
      finish(fault, 'get', key)
      return damage(bytes, fault)
    },
    deleteVersion: (key, versionId, options) =>
      mutating('delete', key, options, () => versioned.deleteVersion(key, versionId, options)),
    lockOf: (key, versionId, options) => around('lock', key, options, () => versioned.lockOf(key, versionId, options)),
    retain: (key, versionId, mode, until, options) =>
      mutating('lock', key, options, () => versioned.retain(key, versionId, mode, until, options)),
    legalHold: (key, versionId, on, options) =>
      mutating('lock', key, options, () => versioned.legalHold(key, versionId, on, options)),
  })

  /** What is locked stops the others as little as in one call. */
  async function deleteOneByOne(keys: readonly string[], options: AbortOptions | undefined): Promise<void> {
    const left: string[] = []
    for (const key of keys) {
      await tellMutation('before', 'delete', key)
      try {
        await inner.delete([key], options)
      } catch (error) {
        if (!isLifeboatError(error, 'store-locked')) throw error
        left.push(key)
      }
      await tellMutation('after', 'delete', key)
    }
    if (left.length > 0) throw locked(left)
  }

  return {
    url: inner.url,
    ...(inner.versioned ? { versioned: faultyVersions(inner.versioned) } : {}),
    fired: faults.fired,
    get mutationCount() {
      return mutationCount
    },
    async get(key, range, options) {
      const fault = await begin('get', key, options)
      const bytes = await inner.get(key, range, options)
      finish(fault, 'get', key)
      return damage(bytes, fault)
    },
    head: (key, options) => around('head', key, options, () => inner.head(key, options)),
    async put(key, body, options) {
      const fault = await begin('put', key, options)
      await tellMutation('before', 'put', key)
      const receipt = await inner.put(
        key,
        fault?.kind === 'wrong-bytes' ? body.map(part => damage(part.slice(), fault)) : body,
        options,
      )
      await tellMutation('after', 'put', key)
      finish(fault, 'put', key)
      return receipt
    },
    list: (prefix, options) => listing(prefix, options, inner.list(prefix, options)),
    async delete(keys, options) {
      for (const key of keys) checkKey(key)
      const fault = await begin('delete', keys[0] ?? '', options)
      if (onMutation) await deleteOneByOne(keys, options)
      else {
        mutationCount += keys.length
        await inner.delete(keys, options)
      }
      finish(fault, 'delete', keys[0] ?? '')
    },
    now: options => around('now', '', options, () => inner.now(options)),
    probe: options => around('probe', '', options, () => inner.probe(options)),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
}

function failure(
  verb: FaultVerb,
  key: string,
  code: ErrorCode = 'store-unreachable',
  retry: 'transient' | 'permanent' = 'transient',
): LifeboatError {
  return new LifeboatError(code, `Injected fault: ${verb} ${key}`, { retry, details: { object: key } })
}

/** `bytes` belong to the caller. */
function damage(bytes: Uint8Array, fault: Fault | undefined): Uint8Array {
  if (fault?.kind === 'short-body') return bytes.slice(0, fault.keep ?? Math.floor(bytes.length / 2))
  if (fault?.kind === 'wrong-bytes' && bytes.length > 0) {
    const at = (fault.at ?? Math.floor(bytes.length / 2)) % bytes.length
    bytes[at] = bytes[at]! ^ 0x01
  }
  return bytes
}
