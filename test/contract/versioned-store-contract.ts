/** What every VersionedStore must do. Run by versioned-store.test.ts on memory, its decorators and the S3 fake, and on Ceph. */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { isLifeboatError, type LifeboatError } from '../../src/core/errors.ts'
import { forEachLimited } from '../../src/core/scope.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { probeStore } from '../../src/storage/probe.ts'
import type { ObjectVersion, VersionedStore } from '../../src/storage/versioned-store.ts'
import { bytesOf, patterned } from './object-store-contract.ts'

export interface VersionedCase {
  readonly store: ObjectStore
  /** Puts a delete marker on a key, as a plain delete of somebody else does. */
  readonly mark: (key: string) => Promise<void>
  /** Lets the store's own time pass. */
  readonly later: (ms: number) => Promise<void>
}

export interface VersionedContractCase {
  readonly name: string
  /** An empty versioned store of its own for one test. */
  readonly open: (cleanup: AsyncDisposableStack) => Promise<VersionedCase>
  readonly objectLock: boolean
  /** A retention that a test can wait for, in the store's own time. */
  readonly retentionMs?: number
  /** More than a page of this store holds. */
  readonly manyVersions?: number
}

const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)
const hasCode = (code: Parameters<typeof isLifeboatError>[1]) => (error: unknown) => isLifeboatError(error, code)
const lockedKeys = (error: LifeboatError): unknown => [...(error.details.keys as string[])].sort()

/** 'key body' of each version, a marker without body. */
async function story(store: ObjectStore, versioned: VersionedStore, prefix = ''): Promise<string[]> {
  const found: string[] = []
  for await (const { key, versionId, isDeleteMarker, isLatest } of versioned.versions(prefix)) {
    const body = isDeleteMarker ? '-' : textOf(await versioned.getVersion(key, versionId))
    found.push(`${key} ${body}${isLatest ? ' latest' : ''}`)
    if (isLatest) assert.equal((await store.head(key)) === undefined, isDeleteMarker, `${key} is there or marked`)
  }
  return found
}

const versionsOf = async (versioned: VersionedStore, key: string): Promise<ObjectVersion[]> =>
  (await Array.fromAsync(versioned.versions(key))).filter(version => version.key === key)

export function versionedStoreContract(contract: VersionedContractCase): void {
  const { name, open, objectLock, retentionMs = 3_600_000, manyVersions = 1_050 } = contract
  type Body = (store: ObjectStore, versioned: VersionedStore, opened: VersionedCase) => Promise<void>
  const check = (behaviour: string, body: Body) =>
    test(behaviour, async () => {
      await using cleanup = new AsyncDisposableStack()
      const opened = await open(cleanup)
      cleanup.use(opened.store)
      assert.ok(opened.store.versioned)
      await body(opened.store, opened.store.versioned, opened)
    })

  suite(`${name}: VersionedStore contract`, () => {
    check(
      'what was overwritten or marked as deleted is still there by its version',
      async (store, versioned, { mark }) => {
        const first = await store.put('k/a', [bytesOf('first')])
        const second = await store.put('k/a', [bytesOf('second')])
        await store.put('k/b', [bytesOf('b')])
        await mark('k/a')
        assert.deepEqual(await story(store, versioned), ['k/a - latest', 'k/a second', 'k/a first', 'k/b b latest'])
        const [marker, ...older] = await versionsOf(versioned, 'k/a')
        assert.deepEqual(
          older.map(({ versionId, size }) => [versionId, size]),
          [
            [second.versionId, 6],
            [first.versionId, 5],
          ],
        )
        assert.equal(marker?.size, 0)
        await assert.rejects(store.get('k/a'), hasCode('store-not-found'))
        assert.deepEqual(
          (await Array.fromAsync(store.list(''))).map(({ key }) => key),
          ['k/b'],
        )
        const { versionId = '' } = first
        assert.equal(textOf(await versioned.getVersion('k/a', versionId, { offset: 1, length: 3 })), 'irs')
        assert.equal((await versioned.getVersion('k/a', versionId, { offset: 5, length: 3 })).length, 0)
        assert.equal((await versioned.getVersion('k/a', versionId, { offset: 2, length: 0 })).length, 0)
      },
    )

    check('delete leaves nothing of a key: no version, no marker', async (store, versioned, { mark }) => {
      for (const key of ['a', 'a/below', 'a2', 'b', 'c'])
        for (let round = 0; round < 3; round++) {
          await store.put(key, [bytesOf(String(round))])
          if (round === 1) await mark(key)
        }
      await store.delete(['a', 'b', 'absent', 'a'])
      assert.deepEqual(
        new Set((await Array.fromAsync(versioned.versions(''))).map(({ key }) => key)),
        new Set(['a/below', 'a2', 'c']),
      )
      assert.equal(await store.head('a'), undefined)
      await store.put('a', [bytesOf('again')])
      assert.deepEqual(await versionsOf(versioned, 'a').then(found => found.map(({ size }) => size)), [5])
      await store.delete(['c'])
      assert.deepEqual(await versionsOf(versioned, 'c'), [])
    })

    check(
      'one version or marker is removed, and what lay below it is shown again',
      async (store, versioned, { mark }) => {
        for (const text of ['1', '2', '3']) await store.put('k', [bytesOf(text)])
        await mark('k')
        const [marker, third, second] = await versionsOf(versioned, 'k')
        await versioned.deleteVersion('k', second!.versionId)
        await versioned.deleteVersion('k', second!.versionId)
        await versioned.deleteVersion('k', marker!.versionId)
        assert.equal(textOf(await store.get('k')), '3')
        await versioned.deleteVersion('k', third!.versionId)
        assert.deepEqual(await story(store, versioned), ['k 1 latest'])
        await versioned.deleteVersion('absent', second!.versionId)
      },
    )

    check(
      'versions are listed below a prefix, after a key, in the order of bytes, more than a page of them',
      async (store, versioned) => {
        const keys = Array.from(
          { length: Math.ceil(manyVersions / 5) },
          (_, index) => `l/${String(index).padStart(5, '0')}`,
        )
        await forEachLimited(keys, 16, async key => {
          for (let round = 0; round < 5; round++) await store.put(key, [bytesOf(`${key} ${round}`)])
        })
        await store.put('l', [bytesOf('not below')])
        await store.put('m/1', [bytesOf('not below')])
        const found = await Array.fromAsync(versioned.versions('l/'))
        assert.deepEqual(
          found.map(({ key }) => key),
          keys.flatMap(key => [key, key, key, key, key]),
        )
        assert.equal(new Set(found.map(({ versionId }) => versionId)).size, found.length)
        assert.deepEqual(
          found.map(({ isLatest }) => isLatest),
          keys.flatMap(() => [true, false, false, false, false]),
        )
        for (const index of [0, Math.floor(found.length / 2), found.length - 1]) {
          const { key, versionId } = found[index]!
          assert.equal(textOf(await versioned.getVersion(key, versionId)), `${key} ${4 - (index % 5)}`)
        }
        const after = keys.at(-3)!
        assert.deepEqual(
          (await Array.fromAsync(versioned.versions('l/', { startAfter: after }))).map(({ key }) => key),
          keys.slice(-2).flatMap(key => [key, key, key, key, key]),
        )
        await store.delete(keys)
        assert.deepEqual(await Array.fromAsync(versioned.versions('l/')), [])
      },
    )

    check(
      'what is absent or a marker is store-not-found, unsafe names are refused, an abort is thrown',
      async (store, versioned, { mark }) => {
        const { versionId = '' } = await store.put('k', [patterned(100)])
        await mark('k')
        const [marker] = await versionsOf(versioned, 'k')
        await assert.rejects(versioned.getVersion('k', marker!.versionId), hasCode('store-not-found'))
        await assert.rejects(versioned.getVersion('other', versionId), hasCode('store-not-found'))
        await assert.rejects(versioned.lockOf('other'), hasCode('store-not-found'))
        await assert.rejects(versioned.lockOf('k'), hasCode('store-not-found'))
        await assert.rejects(versioned.getVersion('../k', versionId), hasCode('absurd-object'))
        await assert.rejects(versioned.deleteVersion('', versionId), hasCode('absurd-object'))
        await assert.rejects(versioned.lockOf('a//b'), hasCode('absurd-object'))
        await assert.rejects(Array.fromAsync(versioned.versions('/')), hasCode('absurd-object'))
        const reason = new Error('stopped by the test')
        const options = { signal: AbortSignal.abort(reason) }
        const isReason = (error: unknown) => error === reason
        await assert.rejects(versioned.getVersion('k', versionId, undefined, options), isReason)
        await assert.rejects(versioned.deleteVersion('k', versionId, options), isReason)
        await assert.rejects(Array.fromAsync(versioned.versions('', options)), isReason)
        assert.equal((await versionsOf(versioned, 'k')).length, 2)
      },
    )

    check('it says what it keeps, and its probe says the same and leaves no version', async (store, versioned) => {
      assert.deepEqual(await versioned.features(), { versioning: true, objectLock })
      const { versioning, objectLock: lock } = await probeStore(store, 'probe/')
      assert.deepEqual({ versioning, lock }, { versioning: true, lock: objectLock })
      assert.deepEqual(await Array.fromAsync(versioned.versions('')), [])
    })

    if (objectLock) lockChecks(check, retentionMs)
    else
      check('without Object Lock nothing is locked, and nothing can be', async (store, versioned) => {
        const { versionId } = await store.put('k', [bytesOf('x')])
        assert.deepEqual(await versioned.lockOf('k'), { legalHold: false })
        const until = new Date((await store.now()).getTime() + retentionMs)
        const refused = hasCode('store-failed')
        await assert.rejects(versioned.retain('k', versionId, 'governance', until), refused)
        await assert.rejects(versioned.legalHold('k', versionId, true), refused)
        await assert.rejects(store.put('k', [bytesOf('y')], { retainUntil: until }), refused)
        await store.delete(['k'])
        assert.deepEqual(await versionsOf(versioned, 'k'), [])
      })
  })
}

function lockChecks(
  check: (
    behaviour: string,
    body: (store: ObjectStore, versioned: VersionedStore, opened: VersionedCase) => Promise<void>,
  ) => void,
  retentionMs: number,
): void {
  /** On a whole second, which is what some stores keep. */
  const inFuture = async (store: ObjectStore, ms = retentionMs): Promise<Date> =>
    new Date(Math.ceil(((await store.now()).getTime() + ms) / 1000) * 1000)

  check(
    'a locked version outlives delete, overwrite and marker until its time',
    async (store, versioned, { mark, later }) => {
      const until = await inFuture(store)
      const { versionId = '' } = await store.put('k', [bytesOf('kept')], { retainUntil: until })
      await store.put('k', [bytesOf('ransom')])
      await mark('k')
      assert.deepEqual(await versioned.lockOf('k', versionId), {
        mode: 'governance',
        retainUntil: until,
        legalHold: false,
      })
      await assert.rejects(versioned.deleteVersion('k', versionId), hasCode('store-locked'))
      await assert.rejects(store.delete(['k']), hasCode('store-locked'))
      assert.deepEqual(await story(store, versioned), ['k kept latest'], 'what was not locked is gone')
      await later(retentionMs + 2_000)
      await store.delete(['k'])
      assert.deepEqual(await versionsOf(versioned, 'k'), [])
    },
  )

  check('delete removes all that is not locked, and names what is', async (store, versioned, { later }) => {
    const retainUntil = await inFuture(store)
    const keys = Array.from({ length: 12 }, (_, index) => `k/${index}`)
    for (const [index, key] of keys.entries())
      await store.put(key, [bytesOf(key)], index % 5 === 0 ? { retainUntil } : {})
    await versioned.legalHold('k/1', undefined, true)
    const error = await store.delete(keys).then(
      () => assert.fail('it was not refused'),
      thrown => thrown,
    )
    assert.ok(isLifeboatError(error, 'store-locked'), String(error))
    assert.deepEqual(lockedKeys(error), ['k/0', 'k/1', 'k/10', 'k/5'])
    assert.match(String(error.details.hint), /retention/)
    assert.deepEqual((await Array.fromAsync(store.list(''))).map(({ key }) => key).sort(), [
      'k/0',
      'k/1',
      'k/10',
      'k/5',
    ])
    await versioned.legalHold('k/1', undefined, false)
    await later(retentionMs + 2_000)
    await store.delete(keys)
    assert.deepEqual(await Array.fromAsync(versioned.versions('')), [])
  })

  check('retention is extended and never shortened, and its mode stays', async (store, versioned, { later }) => {
    const until = await inFuture(store)
    const longer = new Date(until.getTime() + 1_000)
    const { versionId = '' } = await store.put('k', [bytesOf('x')])
    assert.deepEqual(await versioned.lockOf('k'), { legalHold: false })
    await versioned.retain('k', undefined, 'governance', until)
    await assert.rejects(
      versioned.retain('k', undefined, 'governance', new Date(until.getTime() - 1_000)),
      hasCode('store-locked'),
    )
    await versioned.retain('k', versionId, 'governance', longer)
    assert.deepEqual(await versioned.lockOf('k', versionId), {
      mode: 'governance',
      retainUntil: longer,
      legalHold: false,
    })
    await assert.rejects(versioned.retain('k', versionId, 'governance', until), hasCode('store-locked'))
    const latest = new Date(longer.getTime() + 1_000)
    await assert.rejects(versioned.retain('k', versionId, 'compliance', latest), hasCode('store-locked'))
    await assert.rejects(versioned.deleteVersion('k', versionId), hasCode('store-locked'))
    await assert.rejects(versioned.retain('absent', undefined, 'governance', until), hasCode('store-not-found'))
    await later(retentionMs + 4_000)
    await versioned.deleteVersion('k', versionId)
    assert.deepEqual(await versionsOf(versioned, 'k'), [])
  })

  check('a legal hold keeps one version until it is taken off', async (store, versioned) => {
    const { versionId = '' } = await store.put('k', [bytesOf('held')])
    await versioned.legalHold('k', versionId, true)
    await store.put('k', [bytesOf('newer')])
    assert.equal((await versioned.lockOf('k', versionId)).legalHold, true)
    assert.equal((await versioned.lockOf('k')).legalHold, false)
    await assert.rejects(store.delete(['k']), hasCode('store-locked'))
    assert.deepEqual(await story(store, versioned), ['k held latest'])
    await versioned.legalHold('k', versionId, false)
    await store.delete(['k'])
    assert.deepEqual(await versionsOf(versioned, 'k'), [])
    await assert.rejects(versioned.legalHold('absent', undefined, true), hasCode('store-not-found'))
  })

  check('put takes the mode of a lock', async (store, versioned, { later }) => {
    const retainUntil = await inFuture(store)
    await store.put('k', [bytesOf('a'), bytesOf('b')], { retainUntil, lockMode: 'compliance' })
    assert.deepEqual(await versioned.lockOf('k'), { mode: 'compliance', retainUntil, legalHold: false })
    await later(retentionMs + 2_000)
    await store.delete(['k'])
  })
}
