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
    let good = 0
    for (let round = 0; round < 8; round++) {
      const pending = []
      for (let batch = 0; batch < 8; batch++) {
        const text = chunkOf('text', 65536, random)
        const source = Buffer.concat([text, text, text, text])
        pending.push(sealSource(addon, source, 65536, random).then(({ records }) => {
          const opening = addon.openChunks(records.map(record => ({ ...record, target: record.target, stored: record.stored.slice() })))
          gc()
          return opening.then(() => { good += records.every(({ target }) => Buffer.compare(target, text) === 0) ? 1 : 0 })
        }))
        gc()
        new Array(100).fill(0).map(() => new Uint8Array(65536).fill(0xaa))
      }
      await Promise.all(pending)
    }
    console.log(good)`)
  assert.equal(output, '64')
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
