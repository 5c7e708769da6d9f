import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { promisify } from 'node:util'

const run = promisify(execFile)
const importing = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href)

/** In a child, because a mistake here ends the process. */
const inChild = async (body: string): Promise<string> => {
  const program = `
    import { loadPipeline } from ${importing('../../../src/native/native.ts')}
    import { sealSource, chunkOf } from ${importing('./batches.ts')}
    import { seededRandom } from ${importing('../../../src/core/random.ts')}
    const addon = loadPipeline(), random = seededRandom('memory')
    ${body}`
  const { stdout } = await run(process.execPath, ['--expose-gc', '--input-type=module', '-e', program], {
    timeout: 60_000,
  })
  return stdout.trim()
}

test('nothing that a running batch uses is collected', async () => {
  const output = await inChild(`
    import { createHmac } from 'node:crypto'
    import { loadAddon } from ${importing('../../../src/native/native.ts')}
    const raw = loadAddon(), key = random(32), size = 4 << 20
    const sourceOf = batch => new Uint8Array(2 * size).fill(batch + 1)
    let good = 0
    for (let round = 0; round < 3; round++) {
      const batches = Array.from({ length: 8 }, (_, batch) => {
        const ids = new Uint8Array(64)
        // Only the addon knows this source; freed memory of this size is unmapped or used again by the next batch.
        return { batch, ids, done: raw.digestChunks(sourceOf(batch), size, key, ids, new Uint8Array(2)) }
      })
      for (let pass = 0; pass < 3; pass++) {
        gc()
        new Uint8Array(2 * size).fill(0xaa)
        await new Promise(setImmediate)
      }
      for (const { batch, ids, done } of batches) {
        await done
        const expected = createHmac('sha256', key).update(sourceOf(batch).subarray(0, size)).digest()
        good += Buffer.compare(ids.subarray(32), expected) === 0 ? 1 : 0
      }
    }
    console.log(good)`)
  assert.equal(output, '24')
})

test('a process and a worker may end in the middle of a batch', async () => {
  const output = await inChild(`
    import { Worker } from 'node:worker_threads'
    const source = chunkOf('half', 1 << 20, random)
    const code = \`
      import { parentPort } from 'node:worker_threads'
      import { loadPipeline } from \${JSON.stringify(${importing('../../../src/native/native.ts')})}
      const source = new Uint8Array(1 << 23).fill(7)
      for (let i = 0; i < 20; i++) loadPipeline().digestChunks(source, 65536, new Uint8Array(32))
      parentPort.postMessage('busy')\`
    const worker = new Worker(code, { eval: true })
    await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    await worker.terminate()
    for (let i = 0; i < 20; i++) addon.digestChunks(source, 65536, random(32))
    console.log('ended')
    process.exit(0)`)
  assert.equal(output, 'ended')
})
