import assert from 'node:assert/strict'
import { test } from 'node:test'
import { markedExtents } from '../../../src/block/marked-extents.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { limits } from '../../../src/core/limits.ts'
import type { Range } from '../../../src/core/range.ts'
import { contextOf, type ExportContext, listedContexts, selectedContexts } from '../../../src/nbd/meta-contexts.ts'
import type { NbdExport } from '../../../src/nbd/nbd-export.ts'

const SINCE = 'x-lifeboat:changed-since:'
const none: readonly Range[] = []
const context = (name: string, listedAs?: string): ExportContext => ({
  name,
  ...(listedAs !== undefined && { listedAs }),
  extents: range => markedExtents(range, none),
})
const entry = (contexts: readonly ExportContext[]): NbdExport => ({
  name: 'vda',
  device: memoryDevice(Buffer.alloc(8192)),
  readOnly: true,
  contexts,
})
const several = entry([
  context('qemu:dirty-bitmap:written'),
  context('qemu:dirty-bitmap:other'),
  context(`${SINCE}a`, SINCE),
  context(`${SINCE}b`, SINCE),
])

test('LIST: everything without a query, wildcards by namespace and below it, many contexts of one meaning under one name', () => {
  assert.deepEqual(listedContexts(several, []), [
    'base:allocation',
    'qemu:dirty-bitmap:written',
    'qemu:dirty-bitmap:other',
    SINCE,
  ])
  assert.deepEqual(listedContexts(several, ['qemu:']), ['qemu:dirty-bitmap:written', 'qemu:dirty-bitmap:other'])
  assert.deepEqual(listedContexts(several, ['qemu:dirty-bitmap:']), listedContexts(several, ['qemu:']))
  for (const query of ['x-lifeboat:', SINCE])
    assert.deepEqual(listedContexts(several, [query]), [`${SINCE}a`, `${SINCE}b`])
  assert.deepEqual(listedContexts(several, [`${SINCE}b`, 'base:', `${SINCE}b`]), ['base:allocation', `${SINCE}b`])
  for (const query of ['base', 'qemu', '', ':', 'x-lifeboat', 'x-other:', `${SINCE}c`, 'qemu:dirty-bitmap'])
    assert.deepEqual(listedContexts(several, [query]), [], query)
  const many = entry(Array.from({ length: limits.nbdContextsListed + 1 }, (_, i) => context(`${SINCE}${i}`, SINCE)))
  assert.deepEqual(listedContexts(many, ['x-lifeboat:']), [SINCE], 'too many to name')
})

test('SET: full names select, once each; wildcards and strangers do not', () => {
  assert.deepEqual(selectedContexts(several, [`${SINCE}b`, 'base:allocation', `${SINCE}b`]), [
    'base:allocation',
    `${SINCE}b`,
  ])
  assert.deepEqual(selectedContexts(several, ['base:', 'qemu:', 'qemu:dirty-bitmap:', SINCE, 'x:y', '']), [])
  assert.deepEqual(selectedContexts(several, []), [])
})

test('base:allocation is what the device says; other contexts are the export’s own', async () => {
  const range = { offset: 0, length: 8192 }
  const bytes = Buffer.alloc(8192)
  bytes[5000] = 1
  const device = { ...entry([context('x:y')]), device: memoryDevice(bytes) }
  const flags = async (name: string) =>
    (await Array.fromAsync(contextOf(device, name)!.extents(range))).map(({ length, flags }) => [length, flags])
  assert.deepEqual(await flags('base:allocation'), [
    [4096, 3],
    [4096, 0],
  ])
  assert.deepEqual(await flags('x:y'), [[8192, 0]])
  assert.equal(contextOf(device, 'x:z'), undefined)
})
