/** The program that keeps a key: bounded, without a shell, and never chosen by what lies in a store. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import { repositoryId, slotId } from '../../../src/core/ids.ts'
import { commandKey } from '../../../src/crypto/key-command.ts'
import { runKeyProgram } from '../../../src/crypto/key-program.ts'

const node = (script: string, timeoutMs?: number) => ({
  argv: [process.execPath, '-e', script],
  environment: { PATH: process.env.PATH },
  timeoutMs,
})
const bytes = Uint8Array.from({ length: 32 }, (_, n) => n)
const place = { repository: repositoryId('00112233445566778899aabbccddeeff'), slot: slotId('0123456789abcdef') }
const unavailable = (what: RegExp) => (error: unknown) => {
  assert.ok(error instanceof LifeboatError && error.code === 'key-unavailable' && error.details.hint)
  assert.match(error.message, what)
  return true
}

test('bytes go in and come out as they are, and words are words', async () => {
  const echo = node('process.stdin.pipe(process.stdout)')
  assert.deepEqual(await runKeyProgram(echo, ['unwrap'], bytes), bytes)
  const told = await runKeyProgram(node('console.log(process.argv.slice(1).join("|"))'), ['$(id)', 'a b', ';x'], bytes)
  assert.equal(Buffer.from(told).toString(), '$(id)|a b|;x\n')
})

test('what it says when it fails is told, without control characters', async () => {
  const failing = node('process.stderr.write("first\\nKMS says \\u001b[31mno\\n"); process.exit(3)')
  await assert.rejects(
    runKeyProgram(failing, ['wrap'], bytes),
    unavailable(/ended with 3: first; KMS says {2}\[31mno$/),
  )
  await assert.rejects(
    runKeyProgram({ argv: ['/nowhere/kms'], environment: {} }, ['wrap'], bytes),
    unavailable(/cannot be run/),
  )
})

test('one that never ends, or never stops talking, is ended with all that it started', async () => {
  const sleeper = node(
    'require("node:child_process").spawn("sleep", ["60"], { stdio: "inherit" }); setTimeout(() => {}, 60000)',
    700,
  )
  await assert.rejects(runKeyProgram(sleeper, [], bytes), unavailable(/did not end within 0.7 s/))
  const talker = node('setInterval(() => process.stdout.write("x".repeat(65536)), 1)')
  await assert.rejects(runKeyProgram(talker, [], bytes), unavailable(/more than 65536 bytes/))
  const stop = new AbortController()
  const pending = runKeyProgram(sleeper, [], bytes, { signal: stop.signal })
  stop.abort(new Error('stopped'))
  await assert.rejects(pending, { message: 'stopped' })
})

test('a key command gets its verb, its bytes and the place that it may bind them to', async () => {
  const script = `
    const mask = bytes => bytes.map(byte => byte ^ 7)
    const parts = []
    process.stdin.on('data', part => parts.push(part)).on('end', () => {
      const input = Buffer.concat(parts)
      const place = Buffer.from(process.env.LIFEBOAT_KEY_CONTEXT)
      if (process.argv[1] === 'wrap') return process.stdout.write(Buffer.concat([mask(input), place]))
      if (!input.subarray(32).equals(place)) return console.error('bound to another place') ?? process.exit(1)
      process.stdout.write(mask(input.subarray(0, 32)))
    })`
  const { keeper } = commandKey(node(script), 'kms')
  const blob = await keeper.wrap(bytes, place)
  assert.equal(blob.length, 32 + 32 + 1 + 16)
  assert.deepEqual(await keeper.unwrap(blob, place), bytes)
  const elsewhere = { ...place, slot: slotId('ff23456789abcdef') }
  await assert.rejects(keeper.unwrap(blob, elsewhere), unavailable(/bound to another place/))
  const { keeper: short } = commandKey(node('process.stdout.write("x")'), 'kms')
  await assert.rejects(short.unwrap(blob, place), unavailable(/1 bytes where 32/))
})
