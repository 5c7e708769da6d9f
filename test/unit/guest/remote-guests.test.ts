import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import type { DirectoryNode, FileNode } from '../../../src/files/file-tree.ts'
import { type RemoteGuests, remoteGuests } from '../../../src/guest/remote-tree.ts'
import { operations } from '../../../src/guest/wire.ts'
import { entry, FILE_BYTES, frame, guestServer, MANY, sendHonest, text, u32, u64 } from '../../doubles/guest-server.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { until } from '../../doubles/until.ts'

const connected = (stream: Duplex, clock = systemClock): Promise<RemoteGuests> =>
  remoteGuests({ stream, clock, treePrefix: 'point' })

const rootOf = async (guests: RemoteGuests): Promise<DirectoryNode> => (await guests.open('vda-p1')).root

async function fileOf(guests: RemoteGuests): Promise<FileNode> {
  const node = await (await rootOf(guests)).lookup('file')
  assert.equal(node?.kind, 'file')
  if (node?.kind !== 'file') throw new Error('no file')
  return node
}

const listed = async (node: DirectoryNode) => (await Array.fromAsync(node.list())).flat()

test('a listing brings attributes and small extended attributes, and is asked for once', async () => {
  const asked: number[] = []
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      asked.push(request.operation)
      sendHonest(request, honest, toClient)
    }),
  )
  const root = await rootOf(guests)
  const before = asked.length
  const entries = await listed(root)
  assert.deepEqual(
    entries.map(({ name, node }) => [name, node.kind]),
    [
      ['file', 'file'],
      ['folder', 'directory'],
      ['link', 'symlink'],
      ['many', 'directory'],
      ['broken', 'file'],
    ],
  )
  const file = await root.lookup('file')
  assert.deepEqual(await file?.xattrs(), new Map([['security.selinux', Uint8Array.from(Buffer.from('label'))]]))
  assert.deepEqual(await (await root.lookup('folder'))?.xattrs(), new Map())
  assert.equal(await root.lookup('absent'), undefined)
  assert.equal((await listed(root)).length, entries.length)
  assert.deepEqual(asked.slice(before), [operations.list])
  assert.deepEqual([...((await entries[2]?.node.xattrs())?.keys() ?? [])], ['user.a', 'security.capability'])
  assert.equal(file?.tree, 'point/vda-p1')
})

test('a name whose file is damaged is listed, and cannot be opened', async () => {
  await using guests = await connected(guestServer())
  const broken = await (async () => {
    const root = await rootOf(guests)
    return (await listed(root)).find(({ name }) => name === 'broken')?.node
  })()
  assert.equal(broken?.kind, 'file')
  if (broken?.kind === 'file')
    await assert.rejects(
      broken.open(),
      error => isLifeboatError(error, 'guest-filesystem') && /damaged/.test(error.message),
    )
})

test('names that no directory may have are left out, counted and told', async () => {
  const bad = ['..', '.', 'a/b', 'a\0b', '/']
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      if (request.operation !== operations.list) return sendHonest(request, honest, toClient)
      const entries = [...bad.map(name => entry(name, 'file')), entry(Buffer.of(0xff, 0x2e), 'file')]
      toClient.write(frame(request.tag, Buffer.concat([u64(0), u32(entries.length), ...entries])))
    }),
  )
  const names: string[] = []
  const list = async () => {
    const root = await rootOf(guests)
    for await (const entries of root.list()) names.push(...entries.map(({ name }) => name))
  }
  await assert.rejects(
    list,
    error => isLifeboatError(error, 'guest-filesystem') && error.message.includes(`${bad.length} names`),
  )
  assert.deepEqual(names, ['\udcff.'])
  assert.equal(guests.namesLeftOut, bad.length)
})

test('a directory in pages comes whole, and the next page is on its way while one is looked at', async () => {
  const pages: number[] = []
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      if (request.operation === operations.list) pages.push(pages.length)
      sendHonest(request, honest, toClient)
    }),
  )
  const many = await (await rootOf(guests)).lookup('many')
  assert.equal(many?.kind, 'directory')
  if (many?.kind !== 'directory') return
  let seen = 0
  for await (const entries of many.list()) {
    if (seen === 0) await until(() => pages.length >= 2)
    seen += entries.length
  }
  assert.equal(seen, MANY)
})

test('a directory that leads back into itself ends in an error', async () => {
  let pages = 0
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      if (request.operation !== operations.list) return sendHonest(request, honest, toClient)
      pages++
      toClient.write(frame(request.tag, Buffer.concat([u64(7), u32(1), entry('again', 'file')])))
    }),
  )
  await assert.rejects(listed(await rootOf(guests)), error => isLifeboatError(error, 'guest-filesystem'))
  assert.ok(pages < 5)
  assert.ok(guests.isAlive)
})

test('extended attributes in pages come whole, and end where they are more than anybody has', async () => {
  const value = patternBytes(60_000, 3)
  let pagesMax = 3
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      if (request.operation !== operations.xattrs) return sendHonest(request, honest, toClient)
      const first = request.body.readUInt32LE(1 + request.body[0]!)
      const pairs = Array.from({ length: 10 }, (_, index) => [text(`user.${first + index}`), text(value)]).flat()
      const next = first + 10 < pagesMax * 10 ? first + 10 : 0
      toClient.write(frame(request.tag, Buffer.concat([u32(next), u32(10), ...pairs])))
    }),
  )
  const file = await fileOf(guests)
  const xattrs = await file.xattrs()
  assert.equal(xattrs.size, 30)
  for (const bytes of xattrs.values()) assert.ok(value.equals(bytes))
  pagesMax = 1_000_000
  const link = await (await rootOf(guests)).lookup('link')
  await assert.rejects(link?.xattrs() ?? Promise.resolve(), error => isLifeboatError(error, 'guest-filesystem'))
  assert.ok(guests.isAlive)
})

test('a file that is read in order has its next pieces on their way; one that is not, has not', async () => {
  const asked: number[] = []
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      if (request.operation === operations.read) asked.push(Number(request.body.readBigUInt64LE(1 + request.body[0]!)))
      sendHonest(request, honest, toClient)
    }),
  )
  const file = await fileOf(guests)
  await using inOrder = await file.open()
  const bytes = Buffer.alloc(64 * 1024)
  for (let offset = 0; offset + bytes.length <= FILE_BYTES.length; offset += bytes.length) {
    await inOrder.readInto(bytes, offset)
    assert.ok(bytes.equals(FILE_BYTES.subarray(offset, offset + bytes.length)), `at ${offset}`)
  }
  assert.ok(asked.length < 8, `${asked.length} requests for ${FILE_BYTES.length / bytes.length} reads`)
  asked.length = 0
  await using scattered = await file.open()
  const places = [2_500_000, 100, 3_000_000, 1_200_000]
  for (const offset of places) {
    await scattered.readInto(bytes, offset)
    assert.ok(bytes.equals(FILE_BYTES.subarray(offset, offset + bytes.length)), `at ${offset}`)
  }
  assert.deepEqual(asked, places)
})

test('a damaged block fails the reads of it, and none beside it', async () => {
  const bad = 1_500_000
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      const offset = request.operation === operations.read ? Number(request.body.readBigUInt64LE(5)) : 0
      const length = request.operation === operations.read ? request.body.readUInt32LE(13) : 0
      if (offset <= bad && bad < offset + length)
        toClient.write(frame(request.tag, { errno: 5, text: 'bad \u001b[1m' }))
      else sendHonest(request, honest, toClient)
    }),
  )
  await using reader = await (await fileOf(guests)).open()
  const bytes = Buffer.alloc(4096)
  const failed: number[] = []
  for (let offset = 0; offset + bytes.length <= FILE_BYTES.length; offset += bytes.length)
    await reader.readInto(bytes, offset).catch(error => {
      assert.ok(isLifeboatError(error, 'guest-filesystem'))
      assert.equal(error.details.errno, 'EIO')
      assert.ok(!error.message.includes('\u001b'))
      failed.push(offset)
    })
  assert.deepEqual(failed, [bad - (bad % 4096)])
  assert.ok(guests.isAlive)
})

test('a server that is silent is given up after its deadline, and everything fails with the one error', async () => {
  const clock = manualClock()
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      if (request.operation !== operations.lookup) sendHonest(request, honest, toClient)
    }),
    clock,
  )
  const root = await rootOf(guests)
  const lookups = ['a', 'b', 'c'].map(name => root.lookup(name).catch(error => error))
  await clock.advance(limits.guestRequestMs / 2)
  assert.ok(guests.isAlive)
  for (let waited = 0; waited <= limits.guestRequestMs; waited += 5_000) await clock.advance(5_000)
  const errors = await Promise.all(lookups)
  assert.ok(isLifeboatError(errors[0], 'guest-lost'))
  assert.equal(errors[0].retry, 'transient')
  assert.equal(guests.isAlive, false)
  for (const error of [...errors, await listed(root).catch(caught => caught), await guests.ended])
    assert.equal(error, errors[0])
})

test('a server that slowly answers each request stays', async () => {
  const clock = manualClock()
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      if (request.operation !== operations.list) return sendHonest(request, honest, toClient)
      void clock.sleep(limits.guestRequestMs * 0.7).then(() => sendHonest(request, honest, toClient))
    }),
    clock,
  )
  const many = await (await rootOf(guests)).lookup('many')
  const listing = many?.kind === 'directory' ? listed(many) : Promise.resolve([])
  let done = false
  void listing.finally(() => {
    done = true
  })
  while (!done) await clock.advance(1_000)
  assert.equal((await listing).length, MANY)
  assert.ok(guests.isAlive)
})

test('a server that dies in mid reply fails what waits and what comes later', async () => {
  const stream = guestServer((request, honest, toClient) => {
    if (request.operation !== operations.read) return sendHonest(request, honest, toClient)
    toClient.write(honest.subarray(0, honest.length / 2))
    toClient.destroy()
  })
  await using guests = await connected(stream)
  await using reader = await (await fileOf(guests)).open()
  const failed = await reader.readInto(Buffer.alloc(100_000), 0).catch(error => error)
  assert.ok(isLifeboatError(failed, 'guest-lost'), String(failed))
  await assert.rejects(guests.volumes(), error => error === failed)
  assert.ok(stream.destroyed)
})

test('an aborted read leaves its memory alone at once, and the connection goes on', async () => {
  // Of the first reply nothing has come by then, of the second the head and a part of the body.
  for (const sent of [0, 20_000]) {
    const held: (() => void)[] = []
    await using guests = await connected(
      guestServer((request, honest, toClient) => {
        if (request.operation !== operations.read) return sendHonest(request, honest, toClient)
        toClient.write(honest.subarray(0, sent))
        held.push(() => void toClient.write(honest.subarray(sent)))
      }),
    )
    await using reader = await (await fileOf(guests)).open()
    const aborted = new AbortController()
    const target = Buffer.alloc(50_000, 7)
    const reading = reader.readInto(target, 0, { signal: aborted.signal }).catch(error => error)
    await until(() => held.length > 0 && (sent === 0 || target[0] !== 7))
    const reason = new Error('enough')
    aborted.abort(reason)
    assert.equal(await reading, reason)
    target.fill(7)
    for (const release of held.splice(0)) release()
    assert.equal((await guests.volumes()).length, 1)
    assert.ok(target.every(byte => byte === 7))
  }
})

test('at most so many requests are under way, those that were given up among them', async () => {
  let underWay = 0
  let most = 0
  await using guests = await connected(
    guestServer((request, honest, toClient) => {
      if (request.operation !== operations.lookup) return sendHonest(request, honest, toClient)
      most = Math.max(most, ++underWay)
      setTimeout(() => {
        underWay--
        sendHonest(request, honest, toClient)
      }, 5)
    }),
  )
  const root = await rootOf(guests)
  const aborted = new AbortController()
  const lookups = Array.from({ length: 200 }, (_, index) =>
    root.lookup(`x${index}`, index % 2 ? { signal: aborted.signal } : {}).catch(error => error),
  )
  await until(() => most > 0)
  aborted.abort()
  const results = await Promise.all(lookups)
  assert.ok(results.every((result, index) => index % 2 === 1 || result === undefined))
  assert.equal(most, limits.guestRequestsInFlight)
})

test('closing ends what is under way, and the stream', async () => {
  const stream = guestServer((request, honest, toClient) => {
    if (request.operation !== operations.list) sendHonest(request, honest, toClient)
  })
  const guests = await connected(stream)
  const listing = listed(await rootOf(guests)).catch(error => error)
  const closed = once(stream, 'close')
  await guests[Symbol.asyncDispose]()
  assert.ok(isLifeboatError(await listing, 'interrupted'))
  assert.equal(guests.isAlive, false)
  await closed
})

test('somebody else is not believed, nor one who does not greet', async () => {
  for (const greeting of ['{"version":2,"server":"agent","built":""}', '{"version":1,"server":"x"}', 'hello', '[]']) {
    const stream = guestServer((request, _honest, toClient) => void toClient.write(frame(request.tag, text(greeting))))
    await assert.rejects(connected(stream), error => isLifeboatError(error, 'guest-protocol'))
    assert.ok(stream.destroyed)
  }
  const clock = manualClock()
  const silent = remoteGuests({ stream: guestServer(() => {}), clock, treePrefix: 'x', helloMs: 30_000 })
  const outcome = silent.catch(error => error)
  for (let waited = 0; waited < 40_000; waited += 5_000) await clock.advance(5_000)
  assert.ok(isLifeboatError(await outcome, 'guest-lost'))
})
