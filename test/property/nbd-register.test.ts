import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { BlockDevice } from '../../src/block/block-device.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import type { RegisterReport } from '../doubles/register-check.ts'
import { checkServer, registerTests, say } from './nbd-register.ts'

registerTests(20_001)

/** Devices that are wrong now and then, each in one way, and what the check must call it. */
const wrong: Record<
  string,
  { make: (inner: BlockDevice, fired: () => boolean) => BlockDevice; seen: keyof RegisterReport }
> = {
  'a read of what was there before': {
    seen: 'stale',
    make: (inner, fired) => {
      let old = Buffer.alloc(0)
      return {
        ...inner,
        write: async (source, offset) => {
          if (offset === 0 || old.length === 0) {
            old = Buffer.alloc(inner.size)
            await inner.readInto(old, 0)
          }
          await inner.write(source, offset)
        },
        readInto: async (target, offset) => {
          if (old.length > 0 && fired()) target.set(old.subarray(offset, offset + target.length))
          else await inner.readInto(target, offset)
        },
      }
    },
  },
  'a sector of two values': {
    seen: 'torn',
    make: (inner, fired) => ({
      ...inner,
      readInto: async (target, offset) => {
        await inner.readInto(target, offset)
        if (fired()) target.fill(target[0]! + 1, 0, 16)
      },
    }),
  },
  'a value that nobody wrote': {
    seen: 'invented',
    make: (inner, fired) => ({
      ...inner,
      readInto: async (target, offset) => {
        await inner.readInto(target, offset)
        if (fired()) target.fill(7)
      },
    }),
  },
  'the sector beside': {
    seen: 'invented',
    make: (inner, fired) => ({
      ...inner,
      readInto: (target, offset) => inner.readInto(target, offset >= 512 && fired() ? offset - 512 : offset),
    }),
  },
  'an acknowledged write that is lost': {
    seen: 'stale',
    make: (inner, fired) => ({
      ...inner,
      write: async (source, offset) => {
        if (!fired()) await inner.write(source, offset)
      },
    }),
  },
}

for (const [name, { make, seen }] of Object.entries(wrong))
  test(`the check finds ${name}`, async t => {
    const folder = await mkdtemp(join(tmpdir(), 'lifeboat-register-'))
    let count = 0
    let calls = 0
    const fired = () => {
      if (++calls % 29 > 0) return false
      count++
      return true
    }
    const { borrow: _, ...inner } = memoryDevice(Buffer.alloc(1024 * 512))
    try {
      const report = await checkServer(make(inner, fired), { folder, operations: 1000, seed: 1 })
      say(t, report, 1)
      t.diagnostic(`injected ${count}, observed as ${seen}: ${report[seen]}`)
      assert.ok(count > 0 && report[seen] > 0)
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })
