/**
 * Hosts that do not keep one rule of the protocol. None of it is in shipped code: a decorator of their store drops, answers
 * falsely or reorders exactly the request by which the rule is kept.
 */
import { isLifeboatError } from '../../../src/core/errors.ts'
import type { AbortOptions } from '../../../src/core/scope.ts'
import { openEnvelope, sealEnvelope } from '../../../src/crypto/envelope.ts'
import { openFooter, sealFooter } from '../../../src/crypto/footer.ts'
import {
  fencesPrefix,
  gcPrefix,
  leasesPrefix,
  packKey,
  parsePackKey,
  parsePointKey,
  pinsPrefix,
  pointsPrefix,
} from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import {
  buildTrailer,
  encodeChecksums,
  footerRange,
  parseTrailer,
  trailerBytes,
} from '../../../src/repository/pack-codec.ts'
import type { MemoryStore } from '../../../src/storage/memory.ts'
import type { ObjectInfo, ObjectStore } from '../../../src/storage/object-store.ts'
import { absent } from '../../../src/storage/store-errors.ts'
import type { Oracle } from './oracle.ts'
import type { Phase } from './strategy.ts'
import type { Steer } from './walk.ts'

export interface MutantTools {
  /** The store itself, past the schedule. */
  readonly store: MemoryStore
  readonly repository: OpenedRepository
  readonly oracle: Oracle
  /** A harmless mutant got another answer than it would have without its mutation. */
  readonly differed: () => void
}

export type Role = 'writer' | 'export' | 'forget' | 'collector'

export interface Mutant {
  readonly name: string
  readonly says: string
  readonly roles: readonly Role[]
  /** Where its shortest story was found, and how to make that story likely. */
  readonly story: { readonly configuration: string } & Steer
  /** Why nothing is lost without the rule; the story is then one in which the rule makes a difference. */
  readonly harmless?: string
  /** For one process. */
  mutate(inner: ObjectStore, tools: MutantTools): ObjectStore
}

const to = (process: string, before?: RegExp): Phase => ({ process, before })

const isPack = (key: string): boolean => /^(packs|meta)\//.test(key)

/** What starts so is listed as empty. */
const listsNothing = (inner: ObjectStore, under: string): ObjectStore => ({
  ...inner,
  async *list(prefix, options) {
    if (!prefix.startsWith(under)) yield* inner.list(prefix, options)
  },
})

const dropsPut = (inner: ObjectStore, under: string): ObjectStore => ({
  ...inner,
  put: async (key, body, options) => (key.startsWith(under) ? {} : inner.put(key, body, options)),
})

const dropsDelete = (inner: ObjectStore, under: string): ObjectStore => ({
  ...inner,
  delete: (keys, options) =>
    inner.delete(
      keys.filter(key => !key.startsWith(under)),
      options,
    ),
})

/** Keys under `matches` are answered from `memory`, whatever the store has. */
function remembers(
  inner: ObjectStore,
  matches: (key: string) => boolean,
  memory: (key: string) => Promise<Uint8Array | undefined>,
): ObjectStore {
  return {
    ...inner,
    async get(key, range, options) {
      if (!matches(key)) return inner.get(key, range, options)
      const bytes = await memory(key)
      if (!bytes) throw absent(key)
      return range ? bytes.slice(range.offset, range.offset + range.length) : bytes.slice()
    },
    async head(key, options) {
      if (!matches(key)) return inner.head(key, options)
      const bytes = await memory(key)
      return bytes && { key, size: bytes.length, modifiedAt: new Date(0) }
    },
  }
}

/** The n-th whole listing of a prefix is answered like one before it, where `as` says so. */
function repeatsListing(
  inner: ObjectStore,
  under: string,
  as: (n: number, first: readonly ObjectInfo[]) => number | undefined,
): ObjectStore {
  const seen: ObjectInfo[][] = []
  return {
    ...inner,
    async *list(prefix, options) {
      if (!prefix.startsWith(under)) {
        yield* inner.list(prefix, options)
        return
      }
      const like = as(seen.length, seen[0] ?? [])
      const page = like === undefined ? await Array.fromAsync(inner.list(prefix, options)) : (seen[like] ?? [])
      seen.push(page)
      yield* page
    },
  }
}

export const mutants: readonly Mutant[] = [
  {
    name: 'noHead',
    says: 'a writer does not look whether the pack that it reuses is there',
    roles: ['writer'],
    story: { configuration: 'c1', phases: [to('GC1', /^HEAD gc\//), to('W1', /LIST gc/), to('GC1'), to('W1')] },
    mutate: (inner, { oracle }) => remembers(inner, isPack, async key => oracle.history.get(key)),
  },
  {
    name: 'headBeforeRuns',
    says: 'a writer looks at packs before it lists gc/',
    roles: ['writer'],
    story: { configuration: 'c1', phases: [to('GC1', /^HEAD gc\//), to('W1', /LIST gc/), to('GC1'), to('W1')] },
    mutate(inner, { store }) {
      let seen: ReadonlyMap<string, { bytes: Uint8Array }> | undefined
      const remembering = remembers(
        inner,
        key => seen !== undefined && key.startsWith('packs/'),
        async key => seen?.get(key)?.bytes,
      )
      return {
        ...remembering,
        async *list(prefix, options) {
          if (prefix === gcPrefix && !seen) {
            await inner.head('packs/all', options)
            seen = store.snapshot()
          }
          yield* inner.list(prefix, options)
        },
      }
    },
  },
  {
    name: 'leaseLate',
    says: 'a writer stores its lease after it has looked around',
    roles: ['writer'],
    story: { configuration: 'c1', phases: [to('W1', /PUT leases/), to('GC1', /^HEAD gc\//), to('W1'), to('GC1')] },
    mutate(inner) {
      let withheld: (() => Promise<unknown>) | undefined
      let put: Promise<unknown> | undefined
      let isPut = false
      return {
        ...inner,
        async put(key, body, options) {
          if (key.startsWith(leasesPrefix) && !isPut) {
            const bytes = body.map(part => part.slice())
            withheld = () => inner.put(key, bytes, options)
            isPut = true
            return {}
          }
          if (withheld) put ??= withheld()
          await put
          return inner.put(key, body, options)
        },
      }
    },
  },
  {
    name: 'noRuns',
    says: 'a writer reuses what an open run condemns',
    roles: ['writer'],
    story: { configuration: 'c1', phases: [to('GC1', /^HEAD gc\//), to('W1'), to('GC1')] },
    mutate: inner => listsNothing(inner, gcPrefix),
  },
  {
    name: 'noForgottenCheck',
    says: 'a writer does not ask whether its base was forgotten',
    roles: ['writer'],
    story: {
      configuration: 'c2',
      phases: [to('F1'), to('GC1', /^HEAD gc\//), to('W1', /PUT points/), to('GC1'), to('W1')],
    },
    mutate: inner =>
      remembers(
        inner,
        key => key.startsWith('forgotten/'),
        async () => undefined,
      ),
  },
  {
    name: 'manifestFirst',
    says: 'a writer reads the manifest of its base before it asks for the mark',
    roles: ['writer'],
    story: {
      configuration: 'c2',
      phases: [to('F1'), to('GC1', /^HEAD gc\//), to('W1', /forgotten\/X/), to('GC1'), to('W1')],
    },
    mutate(inner) {
      const keys = new Map<string, string>()
      const early = new Map<string, Uint8Array | undefined>()
      const remembering = remembers(
        inner,
        key => early.has(key),
        async key => early.get(key),
      )
      const readEarly = async (mark: string, options: AbortOptions = {}) => {
        const manifest = mark.startsWith('forgotten/') ? keys.get(mark.slice('forgotten/'.length)) : undefined
        if (manifest !== undefined && !early.has(manifest))
          early.set(manifest, await inner.get(manifest, undefined, options).catch(() => undefined))
      }
      return {
        ...remembering,
        async head(key, options) {
          await readEarly(key, options)
          return remembering.head(key, options)
        },
        async get(key, range, options) {
          await readEarly(key, options)
          return remembering.get(key, range, options)
        },
        async *list(prefix, options) {
          for await (const info of inner.list(prefix, options)) {
            const point = parsePointKey(info.key)?.point
            if (point) keys.set(point, info.key)
            yield info
          }
        },
      }
    },
  },
  {
    name: 'fenceCheck',
    says: 'nobody looks at fences: no writer after its manifest, no reader before it reads',
    roles: ['writer', 'export'],
    story: { configuration: 'c1', phases: [to('W1', /PUT points/), to('GC1'), to('W1')] },
    mutate: inner => listsNothing(inner, fencesPrefix),
  },
  {
    name: 'noSelfFence',
    says: 'a writer that gives up leaves no fence against its own manifest',
    roles: ['writer'],
    story: { configuration: 'c13', phases: [to('W1'), to('GC1')] },
    mutate: inner => dropsPut(inner, fencesPrefix),
  },
  {
    name: 'leaseDeletedFirst',
    says: 'a writer deletes its lease before it stores its manifest',
    roles: ['writer'],
    story: { configuration: 'c1', phases: [to('W1', /PUT points/), to('GC1'), to('W1')] },
    mutate(inner) {
      let lease: string | undefined
      return {
        ...inner,
        async put(key, body, options) {
          if (key.startsWith(leasesPrefix)) lease = key
          if (key.startsWith(pointsPrefix) && lease !== undefined) await inner.delete([lease], options)
          return inner.put(key, body, options)
        },
      }
    },
  },
  {
    name: 'noRepairCheck',
    says: 'a writer leaves its copy of a damaged node although its own point was forgotten meanwhile',
    roles: ['writer'],
    story: {
      configuration: 'h1',
      phases: [to('W1', /PUT meta\/\w+\.\w+/), to('F1'), to('GC1', /PUT gc/), to('W1'), to('GC1')],
    },
    mutate: inner => dropsDelete(inner, 'meta/'),
  },
  {
    name: 'noPin',
    says: 'an export puts no pin',
    roles: ['export'],
    story: {
      configuration: 'c2',
      phases: [to('E1', /GET points/), to('F1'), to('GC1', /DELETE points/), to('E1', /GET meta/), to('GC1')],
    },
    mutate: inner => dropsPut(inner, pinsPrefix),
  },
  {
    name: 'noPinCheck',
    says: 'an export does not ask, after its pin, whether the point was forgotten',
    roles: ['export'],
    story: { configuration: 'c2', phases: [to('F1'), to('GC1', /^HEAD gc\//), to('E1', /GET meta/), to('GC1')] },
    mutate: inner =>
      remembers(
        inner,
        key => key.startsWith('forgotten/'),
        async () => undefined,
      ),
  },
  {
    name: 'directForget',
    says: 'forgetting deletes the manifest at once',
    roles: ['forget'],
    story: { configuration: 'c2', phases: [to('E1', /GET meta/), to('F1'), to('GC1')] },
    mutate: (inner, { store }) => ({
      ...inner,
      async put(key, body, options) {
        await inner.put(key, body, options)
        const point = key.slice('forgotten/'.length)
        const manifest = [...store.snapshot().keys()].find(other => parsePointKey(other)?.point === point)
        if (key.startsWith('forgotten/') && manifest !== undefined) await inner.delete([manifest], options)
        return {}
      },
    }),
  },
  {
    name: 'noWait',
    says: 'a collector does not wait for leases that are older than its run',
    roles: ['collector'],
    story: { configuration: 'c1', phases: [to('W1', /PUT points/), to('GC1'), to('W1')] },
    mutate: inner => listsNothing(inner, leasesPrefix),
  },
  {
    name: 'noFence',
    says: 'a collector takes a lease for dead and does not fence it',
    roles: ['collector'],
    story: { configuration: 'c1', phases: [to('W1', /PUT points/), to('GC1'), to('W1')] },
    mutate: inner => dropsPut(inner, fencesPrefix),
  },
  {
    name: 'neverWithdraw',
    says: 'a collector leaves its fence although the manifest is there',
    roles: ['collector'],
    story: { configuration: 'c1', phases: [to('W1', /PUT points/), to('GC1', /PUT fences/), to('W1'), to('GC1')] },
    mutate: inner => dropsDelete(inner, fencesPrefix),
  },
  {
    name: 'noRemark',
    says: 'a collector does not mark again',
    roles: ['collector'],
    story: { configuration: 'c1', phases: [to('W1', /PUT points/), to('GC1', /PUT gc/), to('W1'), to('GC1')] },
    mutate: (inner, { oracle }) =>
      remembersGone(
        repeatsListing(inner, pointsPrefix, n => (n === 0 ? undefined : 0)),
        key => key.startsWith(pointsPrefix) || key.startsWith('meta/'),
        oracle,
      ),
  },
  {
    name: 'onePass',
    says: 'a collector lists points once when it marks again',
    roles: ['collector'],
    story: {
      configuration: 'c12',
      phases: [
        to('W1', /PUT points/),
        to('GC1', /PUT gc/),
        to('W1'),
        to('GC1', /LIST pins/),
        to('W2', /PUT points/),
        to('GC1', /LIST points\/ after .*Y/),
        to('W2'),
        to('F1'),
        to('GC2'),
        to('GC1'),
      ],
      pageKeys: 1,
      datedHours: [1, -1],
    },
    mutate(inner) {
      let last: ObjectInfo[] | undefined
      let isAgain = false
      return {
        ...inner,
        async *list(prefix, options) {
          if (prefix !== pointsPrefix) {
            // It looks at pins before each pair of passes.
            if (prefix === pinsPrefix) isAgain = false
            yield* inner.list(prefix, options)
            return
          }
          const page = isAgain && last ? last : await Array.fromAsync(inner.list(prefix, options))
          last = page
          isAgain = true
          yield* page
        },
      }
    },
  },
  {
    name: 'noPinRecheck',
    says: 'a collector lists pins once only',
    roles: ['collector'],
    story: {
      configuration: 'c2',
      phases: [to('E1', /PUT pins/), to('F1'), to('GC1', /PUT gc/), to('E1', /GET forgotten/), to('GC1'), to('E1')],
    },
    harmless: 'a pin that the first listing missed is younger than the mark, and its owner sees that',
    mutate: (inner, { store, differed }) =>
      repeatsListing(inner, pinsPrefix, (n, first) => {
        if (n === 0) return undefined
        const now = [...store.snapshot().keys()].filter(key => key.startsWith(pinsPrefix))
        if (now.length !== first.length || first.some(({ key }) => !now.includes(key))) differed()
        return 0
      }),
  },
  {
    name: 'runRecordEarly',
    says: 'somebody removes the record of a run that is under way',
    roles: ['collector'],
    story: { configuration: 'c1', phases: [to('GC1', /PUT audit/), to('W1'), to('GC1')] },
    mutate: inner => ({
      ...inner,
      async head(key, options) {
        const info = await inner.head(key, options)
        // The run looks for it just before it removes anything; what comes after that look is the question here.
        if (key.startsWith(gcPrefix)) await inner.delete([key], options)
        return info
      },
    }),
  },
  {
    name: 'packLevel',
    says: 'a run announces whole packs, and not the dead slots that it will drop',
    roles: ['collector'],
    story: { configuration: 'c5', phases: [to('GC1', /^HEAD gc\//), to('W1'), to('GC1')] },
    mutate: (inner, { repository }) => ({
      ...inner,
      async put(key, body, options) {
        if (!key.startsWith(gcPrefix)) return inner.put(key, body, options)
        const { repository: id, metadata } = repository.reading.keyring.repository
        const place = { repository: id, kind: 'gc', objectKey: key } as const
        const record = JSON.parse(new TextDecoder().decode(openEnvelope(place, metadata, Buffer.concat(body))))
        const plain = new TextEncoder().encode(JSON.stringify({ ...record, dead: {} }))
        return inner.put(key, [sealEnvelope(place, metadata, plain, repository.reading.random)], options)
      },
    }),
  },
  {
    name: 'noSourceAbort',
    says: 'a compaction goes on when one of its sources is gone',
    roles: ['collector'],
    story: {
      configuration: 'c7',
      phases: [to('GC1', /^HEAD gc\//), to('GC2', /^HEAD gc\//), to('GC1', /DELETE gc/), to('GC2'), to('GC1')],
    },
    harmless: 'whoever removed the source has put a copy of what lives before',
    mutate: (inner, { oracle, differed }) => remembersGone(inner, isPack, oracle, differed),
  },
  {
    name: 'sameName',
    says: 'all collectors write the rewritten object of a pack under one name',
    roles: ['collector'],
    story: { configuration: 'c6', phases: [to('GC1', /DELETE packs/), to('GC2')] },
    mutate(inner, { repository }) {
      const written = new Map<string, { key: string; bytes: Uint8Array }>()
      return {
        ...inner,
        async put(key, body, options) {
          const place = parsePackKey(key)
          if (place?.run === undefined) return inner.put(key, body, options)
          const bytes = Buffer.concat(body)
          const same = packKey(place.kind, place.domain, place.pack, 'f'.repeat(16))
          written.set(key, { key: same, bytes })
          return inner.put(same, [await renamed(repository, bytes, key, same)], options)
        },
        async get(key, range, options) {
          const own = written.get(key)
          if (!own) return inner.get(key, range, options)
          await inner.get(own.key, range, options)
          return own.bytes
        },
      }
    },
  },
  dropsDuplicates({
    name: 'dupAny',
    what: 'drops what any other object of the pack has as well',
    counts: () => true,
    story: { configuration: 'c7', phases: [to('GC1')] },
  }),
  dropsDuplicates({
    name: 'dupSmallest',
    what: 'drops what an object of a smaller name has as well',
    counts: (other, object) => other < object,
    story: { configuration: 'c6', phases: [to('GC1', /DELETE packs/), to('GC2', /^HEAD gc\//), to('GC1'), to('GC2')] },
  }),
]

/** Nothing that it asked for is ever gone. */
function remembersGone(
  inner: ObjectStore,
  matches: (key: string) => boolean,
  { history }: Oracle,
  differed: () => void = () => {},
): ObjectStore {
  const remembering = remembers(inner, matches, async key => history.get(key))
  return {
    ...inner,
    get: (key, range, options) =>
      inner.get(key, range, options).catch(error => {
        if (!matches(key) || !isLifeboatError(error, 'store-not-found')) throw error
        differed()
        return remembering.get(key, range, options)
      }),
    head: async (key, options) =>
      (await inner.head(key, options)) ?? (matches(key) ? remembering.head(key) : undefined),
  }
}

/** A collector that judges each object of a pack by itself, and removes one whose live records others have. */
function dropsDuplicates({
  name,
  what,
  counts,
  story,
}: Pick<Mutant, 'name' | 'story'> & {
  readonly what: string
  readonly counts: (other: string, object: string) => boolean
}): Mutant {
  return {
    name,
    says: `a collector ${what}`,
    roles: ['collector'],
    story,
    mutate(inner, { oracle }) {
      let doomed: readonly string[] | undefined
      return {
        ...inner,
        async *list(prefix, options) {
          if (prefix === 'packs/') doomed ??= oracle.duplicates(counts)
          if (prefix === pinsPrefix && doomed) {
            const still = oracle.duplicates(counts)
            doomed = doomed.filter(key => still.includes(key))
          }
          // The run itself has no business with them.
          for await (const info of inner.list(prefix, options)) if (!doomed?.includes(info.key)) yield info
        },
        async delete(keys, options) {
          await inner.delete(keys, options)
          // Its record goes last.
          if (doomed && keys.some(key => key.startsWith(gcPrefix))) await inner.delete(doomed, options)
        },
      }
    },
  }
}

/** The same object as it would be under another key. */
async function renamed(
  { id, reading }: OpenedRepository,
  bytes: Uint8Array,
  from: string,
  to: string,
): Promise<Uint8Array> {
  const trailer = parseTrailer(bytes.subarray(-trailerBytes), bytes.length, from)
  const { metadataKey } = await reading.keyring.domainKeys(parsePackKey(from)!.domain, trailer.epoch)
  const { offset, length } = footerRange(trailer)
  const rows = openFooter({ repository: id, objectKey: from }, metadataKey, bytes.subarray(offset, offset + length))
  const body = bytes.subarray(0, offset)
  const footer = sealFooter({ repository: id, objectKey: to }, metadataKey, rows, reading.random)
  const checksums = encodeChecksums([body, footer])
  return Buffer.concat([body, footer, checksums, buildTrailer(trailer.pack, trailer.kind, { ...trailer, checksums })])
}
