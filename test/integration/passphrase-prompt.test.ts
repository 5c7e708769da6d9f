/** A new passphrase is asked for twice on a terminal, and never shown; who mistypes it or goes away has changed nothing. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { done } from '../doubles/bad-input.ts'
import { type CommandLine, commandLine } from '../doubles/command-line.ts'
import { lacking } from '../doubles/peer-tools.ts'
import { type Keystroke, onTerminal } from '../doubles/terminal.ts'

const program = fileURLToPath(new URL('../../bin/lifeboat.mjs', import.meta.url))
const FIRST = 'new passphrase: '
const AGAIN = 'once more: '
const ENTER = '\r'
const CTRL_C = '\x03'
const CTRL_D = '\x04'
const SECRET = 'pässword of Jane'

describe('a passphrase on a terminal', { skip: lacking('script'), timeout: 120_000 }, () => {
  let cli: CommandLine
  let at: string
  before(async () => {
    cli = commandLine()
    at = `--repo ${cli.at('repo')} --key-file ${cli.at('key')}`
    done(await cli.json(`${at} init`))
  })
  after(() => cli[Symbol.asyncDispose]())

  const slots = async () => (await readdir(cli.at('repo', 'keys'))).filter(name => /^[0-9a-f]{16}$/.test(name))
  const adding = async (...keystrokes: Keystroke[]) => {
    const words = [process.execPath, program, ...at.split(' '), 'key', 'add', '--type', 'passphrase']
    const script = `${words.map(word => `'${word}'`).join(' ')}; code=$?; stty -a; exit $code`
    const { PATH } = process.env
    const answer = await onTerminal(['sh', '-c', script], keystrokes, { ...cli.environment, PATH })
    assert.doesNotMatch(answer.shown, /ssword/, 'it is never shown')
    assert.match(answer.shown, /\becho\b/)
    assert.doesNotMatch(answer.shown, /-echo\b|-icanon/, 'the terminal is as it was')
    assert.doesNotMatch(answer.shown, /^\s+at /m)
    return answer
  }

  test('typed twice it opens the repository', async () => {
    const { code, shown } = await adding(
      { after: FIRST, keys: `${SECRET}x\x7f${ENTER}` },
      { after: AGAIN, keys: `${SECRET}${ENTER}` },
    )
    assert.equal(code, 0, shown)
    cli.environment.LIFEBOAT_PASSPHRASE = SECRET
    done(await cli.json(`--repo ${cli.at('repo')} points`))
    delete cli.environment.LIFEBOAT_PASSPHRASE
  })

  for (const [what, exit, message, keystrokes] of [
    [
      'mistyped',
      2,
      /the two differ/,
      [
        { after: FIRST, keys: `${SECRET}${ENTER}` },
        { after: AGAIN, keys: `${SECRET}!${ENTER}` },
      ],
    ],
    ['empty', 2, /an empty passphrase protects nothing/, [{ after: FIRST, keys: ENTER }]],
    ['left by Ctrl-C', 130, /stopped/, [{ after: FIRST, keys: `half a ${CTRL_C}` }]],
    [
      'left by Ctrl-C the second time',
      130,
      /stopped/,
      [
        { after: FIRST, keys: `${SECRET}${ENTER}` },
        { after: AGAIN, keys: CTRL_C },
      ],
    ],
    ['left by Ctrl-D', 2, /empty|differ/, [{ after: FIRST, keys: CTRL_D }]],
  ] as const)
    test(`${what}, nothing is changed`, async () => {
      const before = await slots()
      const { code, shown } = await adding(...keystrokes)
      assert.deepEqual([code, await slots()], [exit, before], shown)
      assert.match(shown, message)
    })
})
