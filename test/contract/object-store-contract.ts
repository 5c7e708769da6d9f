/** What every ObjectStore must do, whatever is behind it. Run by object-store.test.ts on each implementation and decorator. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { suite, test } from 'node:test'
import { isLifeboatError } from '../../src/core/errors.ts'
import { forEachLimited } from '../../src/core/scope.ts'
import type { ObjectInfo, ObjectStore } from '../../src/storage/object-store.ts'
import { probeStore } from '../../src/storage/probe.ts'

export interface ContractCase {
  readonly name: string
  /** An empty store of its own for one test; what must be closed or removed is added to `cleanup`. */
  readonly open: (cleanup: AsyncDisposableStack) => Promise<ObjectStore>
  readonly expectConditionalPut?: boolean
  /** More than a page of this store holds. */
  readonly manyKeys?: number
}

export const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)
const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)
const keysOf = async (listing: AsyncIterable<ObjectInfo>): Promise<string[]> =>
  (await Array.fromAsync(listing)).map(({ key }) => key)

/** `length` bytes that differ from place to place, so that a shifted range shows. */
export const patterned = (length: number, seed = 1): Uint8Array => {
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at++) bytes[at] = (at * 131 + (at >>> 8) * 17 + seed) & 0xff
  return bytes
}
const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
const hasCode = (code: Parameters<typeof isLifeboatError>[1]) => (error: unknown) => isLifeboatError(error, code)

export function objectStoreContract({ name, open, expectConditionalPut = true, manyKeys = 1_050 }: ContractCase): void {
  const check = (behaviour: string, body: (store: ObjectStore) => Promise<void>) =>
    test(behaviour, async () => {
      await using cleanup = new AsyncDisposableStack()
      const store = await open(cleanup)
      cleanup.use(store)
      await body(store)
    })

  suite(`${name}: ObjectStore contract`, () => {
    check('what was put is read, headed and listed at once', async store => {
      const body = [patterned(70_000), new Uint8Array(0), patterned(5, 9)]
      await store.put('packs/ab/one', body)
      const read = await store.get('packs/ab/one')
      assert.equal(read.length, 70_005)
      assert.equal(digest(read), digest(Buffer.concat(body)))
      const head = await store.head('packs/ab/one')
      assert.equal(head?.key, 'packs/ab/one')
      assert.equal(head?.size, 70_005)
      assert.ok(Math.abs(head!.modifiedAt.getTime() - (await store.now()).getTime()) < 3_600_000)
      assert.deepEqual(
        (await Array.fromAsync(store.list(''))).map(({ key, size }) => ({ key, size })),
        [{ key: 'packs/ab/one', size: 70_005 }],
      )
    })

    check("an object is the store's own copy, and what is read is the caller's", async store => {
      const body = bytesOf('before')
      await store.put('a', [body])
      body.fill(0)
      const read = await store.get('a')
      read.fill(0)
      assert.equal(textOf(await store.get('a')), 'before')
    })

    check('an empty object is an object', async store => {
      await store.put('empty', [])
      await store.put('empty2', [new Uint8Array(0)])
      for (const key of ['empty', 'empty2']) {
        assert.equal((await store.get(key)).length, 0)
        assert.equal((await store.get(key, { offset: 0, length: 10 })).length, 0)
        assert.equal((await store.head(key))?.size, 0)
      }
    })

    check('put replaces the whole object', async store => {
      await store.put('config', [bytesOf('a long first version')])
      await store.put('config', [bytesOf('second')])
      assert.equal(textOf(await store.get('config')), 'second')
      assert.equal((await store.head('config'))?.size, 6)
    })

    check('ranges are exact, clipped at the end and empty past it', async store => {
      const bytes = patterned(100_000)
      await store.put('pack', [bytes])
      const rows: [number, number][] = [
        [0, 1],
        [0, 100_000],
        [99_999, 1],
        [12_345, 54_321],
        [99_990, 100],
        [100_000, 1],
        [100_000, 0],
        [250_000, 7],
        [5, 0],
        [0, 2 ** 40],
      ]
      for (const [offset, length] of rows) {
        const read = await store.get('pack', { offset, length })
        const expected = bytes.subarray(offset, offset + length)
        assert.equal(read.length, expected.length, `${offset}+${length}`)
        assert.equal(digest(read), digest(expected), `${offset}+${length}`)
      }
    })

    check('an absent key is store-not-found for get, whatever the range, and undefined for head', async store => {
      await store.put('there/one', [bytesOf('x')])
      for (const key of ['absent', 'there/two', 'there', 'there/one/below', 'not/there']) {
        await assert.rejects(store.get(key), hasCode('store-not-found'), key)
        await assert.rejects(store.get(key, { offset: 3, length: 2 }), hasCode('store-not-found'), key)
        await assert.rejects(store.get(key, { offset: 3, length: 0 }), hasCode('store-not-found'), key)
        assert.equal(await store.head(key), undefined, key)
      }
    })

    check('keys are listed in the order of their bytes, not of folders', async store => {
      const keys = [
        'a-b',
        'a.b',
        'a/b',
        'a/b-c',
        'a/b.d/e',
        'a0',
        'A',
        'a/Z',
        'b%2F',
        'b=',
        'b_',
        'b~',
        'a~/x',
        'a--/x',
      ]
      for (const key of keys) await store.put(key, [bytesOf(key)])
      const sorted = keys.toSorted((x, y) => Buffer.compare(Buffer.from(x), Buffer.from(y)))
      assert.deepEqual(await keysOf(store.list('')), sorted)
      for (const startAfter of [...sorted, 'a/', 'a.', 'a/b.', 'a00', 'Z', '~'])
        assert.deepEqual(
          await keysOf(store.list('', { startAfter })),
          sorted.filter(key => key > startAfter),
          `after ${startAfter}`,
        )
      for (const prefix of ['a', 'a/', 'a/b', 'a/b.', 'a/b.d', 'a/b.d/', 'b', 'c', 'a-', 'zz/', 'a/b-c/']) {
        assert.deepEqual(
          await keysOf(store.list(prefix)),
          sorted.filter(key => key.startsWith(prefix)),
          `prefix ${prefix}`,
        )
        assert.deepEqual(
          await keysOf(store.list(prefix, { startAfter: 'a/b' })),
          sorted.filter(key => key.startsWith(prefix) && key > 'a/b'),
          `prefix ${prefix} after a/b`,
        )
      }
    })

    check('more keys than one page are listed completely, and a listing can be left', async store => {
      const keys = Array.from({ length: manyKeys }, (_, index) => `l/${digest(bytesOf(String(index))).slice(0, 12)}`)
      await forEachLimited(keys, 16, async key => {
        await store.put(key, [bytesOf(key)])
      })
      keys.sort()
      assert.deepEqual(await keysOf(store.list('l/')), keys)
      assert.deepEqual(await keysOf(store.list('l/', { startAfter: keys[manyKeys - 50]! })), keys.slice(manyKeys - 49))
      for await (const { key } of store.list('l/')) {
        assert.equal(key, keys[0])
        break
      }
      await store.delete(keys)
      assert.deepEqual(await keysOf(store.list('')), [])
    })

    check('delete removes the named keys alone, and absent ones are no error', async store => {
      for (const key of ['x/1', 'x/2', 'x/3']) await store.put(key, [bytesOf(key)])
      await store.delete([])
      await store.delete(['x/1', 'x/absent', 'x', 'x/3', 'other/absent', 'x/2/below'])
      assert.deepEqual(await keysOf(store.list('')), ['x/2'])
      await store.delete(['x/2'])
      await store.delete(['x/2'])
      assert.deepEqual(await keysOf(store.list('')), [])
      await store.put('x/2', [bytesOf('again')])
      assert.equal(textOf(await store.get('x/2')), 'again')
    })

    if (expectConditionalPut)
      check('ifAbsent stores a new key and refuses an existing one', async store => {
        await store.put('leases/1', [bytesOf('mine')], { ifAbsent: true })
        await assert.rejects(store.put('leases/1', [bytesOf('theirs')], { ifAbsent: true }), hasCode('store-conflict'))
        assert.equal(textOf(await store.get('leases/1')), 'mine')
        const results = await Promise.allSettled(
          Array.from({ length: 8 }, (_, index) => store.put('race', [bytesOf(`w${index}`)], { ifAbsent: true })),
        )
        const winners = results.flatMap(({ status }, index) => (status === 'fulfilled' ? [index] : []))
        assert.equal(winners.length, 1)
        assert.equal(textOf(await store.get('race')), `w${winners[0]}`)
        assert.deepEqual(await keysOf(store.list('')), ['leases/1', 'race'])
      })

    check('of concurrent puts of one key one wins whole, and readers never see a torn one', async store => {
      const bodies = Array.from({ length: 6 }, (_, index) => patterned(200_000 + index, index * 7))
      const wanted = new Set(bodies.map(digest))
      await store.put('hot', [bodies[0]!])
      let writing = true
      const reader = (async () => {
        while (writing) assert.ok(wanted.has(digest(await store.get('hot'))))
      })()
      await Promise.all(bodies.map(body => store.put('hot', [body.subarray(0, 1000), body.subarray(1000)])))
      writing = false
      await reader
      assert.ok(wanted.has(digest(await store.get('hot'))))
      assert.deepEqual(await keysOf(store.list('')), ['hot'])
    })

    check('unsafe keys, prefixes and ranges are refused before they reach anything', async store => {
      const unsafe = [
        '',
        '/',
        '/etc/passwd',
        '../x',
        'a/../b',
        'a/./b',
        '.',
        '..',
        'a//b',
        'a/',
        'a\0b',
        'ä',
        'a b',
        'a\\b',
        `x${'y'.repeat(1024)}`,
        '.tmp-1',
        'a/.tmp-1',
      ]
      const refused = hasCode('absurd-object')
      await store.put('a/x', [bytesOf('x')])
      for (const key of unsafe) {
        await assert.rejects(store.put(key, [bytesOf('x')]), refused, `put ${key}`)
        await assert.rejects(store.get(key), refused, `get ${key}`)
        await assert.rejects(store.head(key), refused, `head ${key}`)
        await assert.rejects(store.delete(['a/x', key]), refused, `delete ${key}`)
      }
      for (const prefix of ['/', '../', 'a//', 'a/../', 'ä', 'a/.tmp-'])
        await assert.rejects(keysOf(store.list(prefix)), refused, `list ${prefix}`)
      for (const range of [
        { offset: -1, length: 1 },
        { offset: 0, length: -1 },
        { offset: 0.5, length: 1 },
        { offset: 0, length: Number.NaN },
      ])
        await assert.rejects(store.get('a/x', range), refused)
      assert.deepEqual(await keysOf(store.list('')), ['a/x'])
    })

    check('an aborted signal stops every call with its reason and stores nothing', async store => {
      await store.put('there', [bytesOf('x')])
      const reason = new Error('stopped by the test')
      const signal = AbortSignal.abort(reason)
      const isReason = (error: unknown) => error === reason
      await assert.rejects(store.get('there', undefined, { signal }), isReason)
      await assert.rejects(store.head('there', { signal }), isReason)
      await assert.rejects(store.put('new', [bytesOf('x')], { signal }), isReason)
      await assert.rejects(keysOf(store.list('', { signal })), isReason)
      await assert.rejects(store.delete(['there'], { signal }), isReason)
      assert.deepEqual(await keysOf(store.list('')), ['there'])
    })

    check('an abort in the middle of a put leaves the object whole or absent', async store => {
      const body = patterned(3_000_000)
      for (let round = 0; round < 5; round++) {
        const stop = new AbortController()
        const put = store.put('big', [body.subarray(0, 1_000_000), body.subarray(1_000_000)], { signal: stop.signal })
        setTimeout(() => stop.abort(new Error('stopped')), round)
        const stored = await put.then(
          () => true,
          () => false,
        )
        const found = await keysOf(store.list(''))
        if (stored) assert.deepEqual(found, ['big'])
        if (found.length > 0) assert.equal(digest(await store.get('big')), digest(body))
        await store.delete(['big'])
      }
    })

    check('probe tells what holds here and leaves nothing', async store => {
      await store.put('probe/kept', [bytesOf('x')])
      const capabilities = await probeStore(store, 'probe/')
      assert.equal(capabilities.conditionalPut, expectConditionalPut)
      assert.deepEqual(await keysOf(store.list('')), ['probe/kept'])
    })

    check('it says where it is without secrets', async store => {
      assert.match(store.url, /^[a-z0-9]+:/)
      assert.doesNotMatch(store.url, /@|secret/i)
    })
  })
}
