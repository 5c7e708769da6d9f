import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { seededRandom, systemRandom } from '../../../src/core/random.ts'
import { restoreDisk } from '../../../src/recovery/restore.ts'
import { MemoryChunkSource } from '../../doubles/chunk-source.ts'
import { memoryPoint } from '../../doubles/recovery-point.ts'

const KiB = 1024
const CHUNK = 64 * KiB
const folder = await mkdtemp(path.join(tmpdir(), 'lifeboat-restore-'))
after(() => rm(folder, { recursive: true, force: true }))

function image(chunks: number, holes: (index: number) => boolean, tail = 0): Uint8Array {
  const bytes = new Uint8Array(chunks * CHUNK - tail)
  for (let i = 0; i < chunks; i++)
    if (!holes(i)) bytes.set(seededRandom(`chunk ${i % 50}`)(Math.min(CHUNK, bytes.length - i * CHUNK)), i * CHUNK)
  return bytes
}

const sparse = image(300, i => i % 7 < 5 && i !== 299, 512)
const options = (name: string) => ({ output: path.join(folder, name), clock: systemClock, random: systemRandom })
const pointOf = (bytes: Uint8Array) => {
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK, cold: true })
  return { source, point: memoryPoint({ vda: source }) }
}
const same = (a: Uint8Array, b: Uint8Array) => assert.equal(Buffer.compare(a, b), 0, 'the file is the disk')
const partials = async () => (await readdir(folder)).filter(name => name.endsWith('.partial'))

test('a disk becomes a sparse file of its exact size, with the bytes and figures that are true', async () => {
  const { source, point } = pointOf(sparse)
  const seen: number[] = []
  const result = await restoreDisk(point, 'vda', { ...options('a.raw'), progress: ({ done }) => seen.push(done) })
  same(await readFile(result.output), sparse)
  const { size, blocks } = await stat(result.output)
  assert.equal(size, sparse.length)
  assert.ok(blocks * 512 < sparse.length / 2, 'holes stay holes')
  assert.equal(result.bytesFetched, (source.chunksFetched * CHUNK) / 2)
  const data = Array.from({ length: 300 }, (_, i) => i).filter(i => i % 7 >= 5 || i === 299).length
  assert.equal(result.bytesWritten, data * CHUNK - 512)
  assert.equal(seen.at(-1), sparse.length)
  assert.deepEqual(await partials(), [])
})

test('content that occurs several times in a batch is fetched once and written everywhere', async () => {
  const bytes = new Uint8Array(8 * CHUNK)
  for (const at of [0, 3, 6]) bytes.set(seededRandom('same')(CHUNK), at * CHUNK)
  const { source, point } = pointOf(bytes)
  const { output } = await restoreDisk(point, 'vda', options('repeated.raw'))
  same(await readFile(output), bytes)
  assert.equal(source.chunksFetched, 1)
})

test('an existing output is refused; --force replaces it whole', async () => {
  const { point } = pointOf(sparse)
  const at = options('exists.raw')
  await writeFile(at.output, 'mine')
  await assert.rejects(restoreDisk(point, 'vda', at), { code: 'output-exists' })
  assert.equal(await readFile(at.output, 'utf8'), 'mine')
  await restoreDisk(point, 'vda', { ...at, force: true })
  same(await readFile(at.output), sparse)
  await mkdir(path.join(folder, 'dir'))
  await assert.rejects(restoreDisk(point, 'vda', { ...options('dir'), force: true }), { code: 'usage' })
  await assert.rejects(restoreDisk(point, 'vdb', options('other.raw')), { code: 'no-such-disk' })
  await assert.rejects(restoreDisk(point, 'vda', options('no/such/dir.raw')), { code: 'output-failed' })
})

test('an output that comes into being during the restore is not replaced', async () => {
  const { source, point } = pointOf(sparse)
  const at = options('race.raw')
  source.beforeDeliver = async () => {
    await writeFile(at.output, 'theirs')
  }
  await assert.rejects(restoreDisk(point, 'vda', at), { code: 'output-exists' })
  assert.equal(await readFile(at.output, 'utf8'), 'theirs')
  assert.deepEqual(await partials(), [])
})

test('--onto writes only the chunks that differ, zeros included, and takes the size of the disk', async () => {
  const { source, point } = pointOf(sparse)
  const at = { ...options('onto.raw'), onto: true }
  const before = new Uint8Array(sparse.length + 3 * CHUNK)
  before.set(sparse)
  before.fill(7, 5 * CHUNK, 6 * CHUNK) // differs from data
  before.fill(7, 100 * CHUNK + 9, 100 * CHUNK + 10) // one byte in a hole
  before.fill(9, sparse.length)
  await writeFile(at.output, before)
  const compared = await restoreDisk(point, 'vda', at)
  same(await readFile(at.output), sparse)
  assert.equal(compared.bytesWritten, 2 * CHUNK)
  assert.ok(source.chunksFetched > 40, 'a source that cannot compare has to fetch')

  await writeFile(at.output, before.subarray(0, 200 * CHUNK))
  const { point: knowing, source: known } = pointOf(sparse)
  known.matches = async (refs, contents) => {
    const flags = new Uint8Array(refs.length)
    for (const [i, ref] of refs.entries())
      flags[i] = Buffer.compare(contents.subarray(i * CHUNK, (i + 1) * CHUNK), known.content(ref)) === 0 ? 1 : 0
    return flags
  }
  await restoreDisk(knowing, 'vda', at)
  same(await readFile(at.output), sparse)
  const again = await restoreDisk(knowing, 'vda', at)
  assert.deepEqual(
    [again.bytesWritten, again.bytesFetched],
    [0, 0],
    'nothing differs: nothing is fetched, nothing written',
  )
})

test('a damaged chunk, an abort: the reason comes out and nothing is at the output', async () => {
  const { source, point } = pointOf(sparse)
  source.beforeDeliver = async (_ref, index) => {
    if (index === 286)
      throw new LifeboatError('corrupt-object', 'pack x is damaged', { details: { object: 'packs/x' } })
  }
  await assert.rejects(restoreDisk(point, 'vda', options('damaged.raw')), { code: 'corrupt-object' })
  const controller = new AbortController()
  source.beforeDeliver = async (_ref, index) => {
    if (index > 150) controller.abort(new LifeboatError('interrupted', 'Ctrl-C'))
  }
  await assert.rejects(restoreDisk(point, 'vda', { ...options('damaged.raw'), signal: controller.signal }), {
    code: 'interrupted',
  })
  await assert.rejects(stat(path.join(folder, 'damaged.raw')), { code: 'ENOENT' })
  assert.deepEqual(await partials(), [])
  await writeFile(path.join(folder, 'half.raw'), 'x')
  source.beforeDeliver = async (_ref, index) => {
    if (index === 286) throw new LifeboatError('missing-object', 'pack x is gone')
  }
  await assert.rejects(restoreDisk(point, 'vda', { ...options('half.raw'), onto: true }), /partly overwritten/)
})

test('killed in the middle, the output is not there, and the next restore works', async () => {
  const url = (file: string) => JSON.stringify(new URL(`../../../${file}`, import.meta.url).href)
  const at = options('killed.raw')
  const child = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { MemoryChunkSource } from ${url('test/doubles/chunk-source.ts')}
       import { memoryPoint } from ${url('test/doubles/recovery-point.ts')}
       import { restoreDisk } from ${url('src/recovery/restore.ts')}
       import { systemClock } from ${url('src/core/clock.ts')}
       import { systemRandom } from ${url('src/core/random.ts')}
       const bytes = new Uint8Array(200 * ${CHUNK}).map((_, i) => 1 + (i >> 16))
       const source = new MemoryChunkSource(bytes, { chunkSize: ${CHUNK} })
       source.beforeDeliver = async (_ref, index) => {
         if (index === 150) { console.log('half way'); await new Promise(resolve => setTimeout(resolve, 60_000)) }
       }
       await restoreDisk(memoryPoint({ vda: source }), 'vda', { output: ${JSON.stringify(at.output)}, clock: systemClock, random: systemRandom })`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  await Promise.race([once(child.stdout, 'data'), once(child, 'close')])
  assert.equal(child.exitCode, null, 'the restore is under way')
  child.kill('SIGKILL')
  await once(child, 'close')
  await assert.rejects(stat(at.output), { code: 'ENOENT' })
  assert.equal((await partials()).length, 1, 'what is left bears a name that says what it is')
  const { point } = pointOf(sparse)
  await restoreDisk(point, 'vda', at)
  same(await readFile(at.output), sparse)
})

test('a full filesystem is told as such and left as it was', {
  skip: process.getuid?.() !== 0 && 'needs root for a small tmpfs',
}, async () => {
  const mount = await mkdtemp(path.join(tmpdir(), 'lifeboat-small-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'none', mount])
  try {
    const { point } = pointOf(image(100, () => false))
    const output = path.join(mount, 'disk.raw')
    await assert.rejects(restoreDisk(point, 'vda', { ...options('x'), output }), { code: 'disk-full' })
    assert.deepEqual(await readdir(mount), [])
  } finally {
    execFileSync('umount', [mount])
    await rm(mount, { recursive: true })
  }
})
