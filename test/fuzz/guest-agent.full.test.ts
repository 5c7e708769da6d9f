import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { globSync } from 'node:fs'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type Random, seededRandom } from '../../src/core/random.ts'
import { operations, parseFound, parseList } from '../../src/guest/wire.ts'
import { agentProcess } from '../doubles/guest-agent.ts'
import { text, u32, u64 } from '../doubles/guest-server.ts'
import { lyingServers } from './guest-campaign.ts'

const folder = await mkdtemp(join(tmpdir(), 'agent-fuzz-'))
after(() => rm(folder, { recursive: true, force: true }))

const SOURCES = ['agent', 'mounted', 'paths', 'program', 'server']
const native = fileURLToPath(new URL('../../native/guest/', import.meta.url))

function sanitizedAgent(): string {
  const program = join(folder, 'agent')
  const flags = ['-std=c++17', '-O1', '-g1', '-D_GNU_SOURCE', '-DLIFEBOAT_BUILT="test"', '-fno-exceptions']
  const checks = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all']
  execFileSync('g++', [...flags, ...checks, '-o', program, ...SOURCES.map(name => join(native, `${name}.cc`))])
  return program
}

test('fuzz: 20,000 replies of servers that lie', async t => {
  const { malformed, outcomes } = await lyingServers(`guest ${process.pid}`, 20_000)
  t.diagnostic(`seed 'guest ${process.pid}': ${malformed}: ${[...outcomes].map(pair => pair.join(' ')).join(', ')}`)
})

test('fuzz: malformed requests neither crash the agent nor stay without an answer', async t => {
  const program = sanitizedAgent()
  const volume = join(folder, 'volume')
  await mkdir(join(volume, 'below'), { recursive: true })
  await writeFile(join(volume, 'file'), 'x'.repeat(100_000))
  await symlink('file', join(volume, 'link'))
  execFileSync('mkfifo', [join(volume, 'fifo')])
  const random = seededRandom('requests')
  const counts = { answered: 0, refused: 0, hungUp: 0 }
  for (let round = 0; round < 40; round++) {
    await using agent = await agentProcess(
      { volume },
      {
        program,
        flags: ['--handles', round % 3 === 0 ? 'no' : 'yes'],
        threads: round % 4,
        env: { ASAN_OPTIONS: 'detect_leaks=1' },
      },
    )
    const replies = framesOf(agent.stream)
    const nodes = await honestNodes(agent.stream, replies)
    const requests = Array.from({ length: 200 }, (_, index) => request(index + 100, malformed(nodes, random)))
    for (const bytes of requests) agent.stream.write(bytes)
    for (const _ of requests) {
      const reply = await replies()
      assert.ok(reply, agent.complaints())
      if (reply.readUInt16LE(4) === 0) counts.answered++
      else counts.refused++
    }
    // What breaks the framing itself ends the connection, and the agent with it.
    agent.stream.write(round % 2 === 0 ? u32(2 ** 31) : Buffer.concat([u32(4), u32(1)]))
    agent.stream.end()
    const code = await agent.ended
    assert.ok(code === 1 || code === 0, `ended with ${code}: ${agent.complaints()}`)
    assert.doesNotMatch(agent.complaints(), /Sanitizer|runtime error/)
    counts.hungUp++
  }
  t.diagnostic(JSON.stringify(counts))
  assert.ok(counts.answered > 100 && counts.refused > 5_000)
  assert.ok(globSync('core*', { cwd: folder }).length === 0)
})

const request = (tag: number, [operation, body]: readonly [number, Buffer]): Buffer =>
  Buffer.concat([u32(5 + body.length), u32(tag), Buffer.of(operation), body])

/** The next reply without its length; undefined where the agent hung up. */
function framesOf(stream: Duplex): () => Promise<Buffer | undefined> {
  let bytes = Buffer.alloc(0)
  let ended = false
  stream.on('data', (more: Buffer) => {
    bytes = Buffer.concat([bytes, more])
    stream.emit('more')
  })
  for (const event of ['end', 'close', 'error'])
    stream.on(event, () => {
      ended = true
      stream.emit('more')
    })
  return async () => {
    while (bytes.length < 4 || bytes.length < 4 + bytes.readUInt32LE()) {
      if (ended) return undefined
      await once(stream, 'more')
    }
    const end = 4 + bytes.readUInt32LE()
    const reply = bytes.subarray(4, end)
    bytes = bytes.subarray(end)
    return reply
  }
}

async function honestNodes(stream: Duplex, replies: () => Promise<Buffer | undefined>): Promise<readonly Buffer[]> {
  const ask = async (tag: number, operation: number, body: Buffer): Promise<Buffer> => {
    stream.write(request(tag, [operation, body]))
    const reply = await replies()
    assert.equal(reply?.readUInt16LE(4), 0, `${reply}`)
    return reply?.subarray(6) ?? Buffer.alloc(0)
  }
  await ask(1, 0, u32(1))
  const root = Buffer.from(parseFound(await ask(2, 3, text('volume'))).node, 'latin1')
  const { entries } = parseList(await ask(3, 5, Buffer.concat([Buffer.of(root.length), root, u64(0)])))
  return [root, ...entries.map(({ found }) => Buffer.from(found?.node ?? '', 'latin1'))]
}

const below = (random: Random, bound: number): number => Buffer.from(random(4)).readUInt32LE() % bound

/** What belongs behind a node. */
const RIGHT: ReadonlyMap<number, Buffer> = new Map([
  [operations.lookup, Buffer.concat([Buffer.of(4, 0), Buffer.from('file')])],
  [operations.list, u64(0)],
  [operations.readLink, Buffer.alloc(0)],
  [operations.xattrs, u32(0)],
  [operations.read, Buffer.concat([u64(99_000), u32(4096)])],
  [operations.extents, Buffer.concat([u64(0), u64(100_000)])],
])

/** A request that is nearly right: its node, numbers or texts are changed, cut or made up. */
function malformed(nodes: readonly Buffer[], random: Random): readonly [number, Buffer] {
  const operation = below(random, 13)
  const node = Buffer.from(nodes[below(random, nodes.length)] ?? Buffer.alloc(1))
  const odd = below(random, 10)
  if (odd === 0) node[below(random, node.length)] = below(random, 256)
  const cut = odd === 1 ? node.subarray(0, below(random, node.length)) : node
  const numbers = [0, 1, 4096, 2 ** 20, 2 ** 20 + 1, 2 ** 31, 2 ** 32 - 1]
  const number = () => numbers[below(random, numbers.length)] ?? 0
  const wide = () => u64((BigInt(number()) << BigInt(below(random, 40))) + BigInt(below(random, 3)))
  const tails: readonly (() => Buffer)[] = [
    () => Buffer.concat([wide(), u32(number())]),
    () => Buffer.concat([wide(), wide()]),
    () => wide(),
    () => u32(number()),
    () => Buffer.concat([Buffer.of(4, 0), Buffer.from('file')]),
    () => Buffer.concat([Buffer.of(2, 0), Buffer.from('..')]),
    () => Buffer.from(random(below(random, 300))),
    () => Buffer.alloc(0),
  ]
  const right = below(random, 2) === 0 ? RIGHT.get(operation) : undefined
  const tail = right ?? (tails[below(random, tails.length)] ?? tails[0]!)()
  const body = Buffer.concat([Buffer.of(odd === 2 ? below(random, 256) : cut.length), cut, tail])
  if (odd === 3) return [operation, Buffer.concat([u32(number()), Buffer.from(random(below(random, 100)))])]
  if (odd === 4) return [operation, body.subarray(0, below(random, body.length + 1))]
  return [operation, body]
}
