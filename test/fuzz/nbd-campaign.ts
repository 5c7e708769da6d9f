/** A run of the fuzzer against a server of its own, with a good client that is served all the while. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { MiB } from '../../src/core/limits.ts'
import { forEachLimited } from '../../src/core/scope.ts'
import * as C from '../../src/nbd/constants.ts'
import * as O from '../../src/nbd/option-codec.ts'
import { certificateAuthority, credentialFolder } from '../doubles/certificates.ts'
import { startFuzzedServer } from '../doubles/fuzzed-server.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { RawNbdClient } from '../doubles/raw-nbd-client.ts'
import { anyInput, corpus, Dice, keep, SIZE, say } from './nbd-cases.ts'

/** Where the inputs land: at the server, inside TLS, or at the encryption itself. */
type Layer = 'plain' | 'inside TLS' | 'instead of TLS'

interface Campaign {
  readonly layer: Layer
  readonly device: 'memory' | 'slow'
  readonly count: number
}

const seed = Number(process.env.LIFEBOAT_TEST_SEED ?? 20261121)
/** Of one handshake that goes well, for the encryption's fuzzing: records with a hello in them. */
const HELLO = Buffer.from('16030100610100005d0303', 'hex')

/** Nothing ends the server, leaks a connection or a descriptor, disturbs the good client, or costs more than 128 MiB. */
export async function campaign(t: TestContext, { layer, device: kind, count }: Campaign): Promise<void> {
  t.diagnostic(`seed ${seed} (LIFEBOAT_TEST_SEED): ${count} random inputs and ${corpus.length} kept ones, ${layer}`)
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-nbd-fuzz-'))
  try {
    await run(t, folder, { layer, device: kind, count })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function run(t: TestContext, folder: string, { layer, device: kind, count }: Campaign): Promise<void> {
  const good = patternBytes(SIZE, 4)
  const path = join(folder, 'fuzz.sock')
  const tls = layer === 'plain' ? undefined : await credentials(folder)
  await using server = await startFuzzedServer({ socket: path, size: SIZE, slow: kind === 'slow', seed, tls })
  const { log } = server
  await using client = await RawNbdClient.go(path, 'good', 'structured', [], tls === undefined ? undefined : {})
  // What is allocated once, like output buffers and what the allocator keeps for the next connection, is not growth.
  const warmUp = Array.from({ length: Math.max(100, count / 20) }, (_, i) => new Dice(seed - 1 - i))
  await forEachLimited(warmUp.values(), 16, async dice => visit(path, layer, anyInput(dice), dice))
  const before = { resident: await server.resident(), descriptors: await server.descriptors() }
  let most = before.resident
  let served = 0
  let asking = Promise.resolve()
  let kept = 0
  const cases = Array.from({ length: corpus.length + count }, (_, i) => i)
  await forEachLimited(cases, 16, async i => {
    const dice = new Dice(seed + i)
    const input = corpus[i] ?? anyInput(dice)
    const errors = log.length
    await visit(path, layer, input, dice)
    // One of those that were said at that moment; a handful is enough to find out which.
    if (kept < 16 && log.slice(errors).some(line => line.includes('internal error'))) {
      kept++
      keep(`found-${seed}-${i}`, input)
    }
    if (i % 50 > 0) return
    most = Math.max(most, await server.resident())
    // One question at a time: a visitor may take so long that the next one that asks comes meanwhile.
    asking = asking.then(async () => {
      client.request(C.NBD_CMD_READ, i % 1000, 5000)
      const reply = await client.reply()
      assert.ok(reply.payload.subarray(8).equals(good.subarray(i % 1000, (i % 1000) + 5000)), `case ${i}`)
      served++
    })
    await asking
  })
  const growth = Math.round((most - before.resident) / MiB)
  t.diagnostic(`the good client was served ${served} times in between; growth ${growth} MiB at most`)
  assert.ok(growth < 128, `grew by ${growth} MiB`)
  const internal = log.find(line => line.includes('internal error'))
  assert.equal(internal, undefined)
  for (const line of log) assert.match(line, /^[\x20-\x7e]*$/, 'log lines are printable')
  assert.equal(server.exitCode, null)
  for (let waits = 0; (await server.descriptors()) > before.descriptors + 4; waits++) {
    assert.ok(waits < 1000, 'descriptors are given back')
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

async function credentials(folder: string): Promise<string> {
  const server = certificateAuthority().issue({ commonName: 'fuzz', names: ['DNS:localhost'] })
  return credentialFolder(join(folder, 'tls'), { server })
}

/** One client that says `input` in its way, and goes. */
export async function visit(path: string, layer: Layer, input: Buffer, dice: Dice): Promise<void> {
  await using client = await RawNbdClient.connect(path)
  // Node accepts one connection a turn of its loop, so visitors that never wait would only fill the backlog.
  if (layer === 'plain') {
    if (dice.below(10) > 0) await client.read(18)
    return say(client, input, dice)
  }
  await client.read(18)
  client.write(Buffer.from([0, 0, 0, 3]))
  if (layer === 'inside TLS') {
    await client.startTls()
    // The flags were said in the clear.
    return say(client, input.subarray(4), dice)
  }
  client.write(O.encodeOption(C.NBD_OPT_STARTTLS, Buffer.alloc(0)))
  if (dice.below(10) > 0) await client.read(20)
  await say(client, dice.below(2) === 0 ? dice.mutated(Buffer.concat([HELLO, input])) : input, dice)
}
