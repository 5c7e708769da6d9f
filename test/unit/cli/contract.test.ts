/** The command line as a contract: codes, help, documents and tables that scripts and people rely on (docs/cli.md). */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { Writable } from 'node:stream'
import { test } from 'node:test'
import { exitCodeOf } from '../../../src/cli/exit-code.ts'
import { Output } from '../../../src/cli/output.ts'
import { type ErrorCode, LifeboatError } from '../../../src/core/errors.ts'
import { commandLine } from '../../doubles/command-line.ts'

const read = (name: string): Promise<string> => readFile(new URL(`../../../${name}`, import.meta.url), 'utf8')

async function errorCodes(): Promise<string[]> {
  const union = /export type ErrorCode =\n([\s\S]*?)\n\n/.exec(await read('src/core/errors.ts'))?.[1] ?? ''
  return [...union.matchAll(/\| '([a-z-]+)'/g)].map(([, code = '']) => code)
}

/** Of each command its name and the flags in its help. */
async function verbs(): Promise<{ name: string; help: string; flags: string[] }[]> {
  await using cli = commandLine()
  const { stdout } = await cli.run('--help')
  const names = [...(/\nCommands:\n([\s\S]*?)\n\n/.exec(stdout)?.[1] ?? '').matchAll(/^ {2}([a-z]+)/gm)].map(
    ([, name = '']) => name,
  )
  return await Promise.all(
    names
      .filter(name => name !== 'help')
      .map(async name => {
        const { stdout: help, code } = await cli.run(`${name} --help`)
        assert.equal(code, 0, name)
        return { name, help, flags: [...help.matchAll(/(--[a-z-]+)/g)].map(([, flag = '']) => flag) }
      }),
  )
}

test('every error code is in docs/operations.md, with the exit code of its chapter', async () => {
  const chapters = (await read('docs/operations.md')).split('\n## ')
  const codes = await errorCodes()
  assert.ok(codes.length > 40)
  for (const code of codes) {
    const chapter = chapters.find(text => text.includes(`\`${code}\``))
    assert.ok(chapter, `${code} is not in docs/operations.md`)
    const said = Number(/^.*\(exit code (\d)\)/.exec(chapter)?.[1] ?? 1)
    const expected = code === 'interrupted' ? 130 : code === 'store-bucket-missing' ? 2 : said
    assert.equal(exitCodeOf(new LifeboatError(code as ErrorCode, 'x')), expected, code)
  }
  assert.equal(exitCodeOf(new Error('a defect')), 1)
  assert.equal(exitCodeOf(undefined), 1)
})

test('the help of every command has an example that names it', async () => {
  const found = await verbs()
  assert.ok(found.length >= 11)
  for (const { name, help } of found)
    assert.match(help, new RegExp(`\nExamples?:\n(?:  lifeboat .*\n)*  lifeboat .*\\b${name}\\b`), name)
})

test('docs/cli.md names every command, and every flag of each or of all', async () => {
  const page = await read('docs/cli.md')
  for (const { name, flags } of await verbs()) {
    assert.ok(page.includes(`\`${name}`), `${name} is not in docs/cli.md`)
    for (const flag of flags)
      if (flag !== '--help') assert.ok(page.includes(flag), `${flag} of ${name} is not in docs/cli.md`)
  }
  await using cli = commandLine()
  const { stdout } = await cli.run('--help')
  for (const [, flag = ''] of stdout.matchAll(/^ {2}(--[a-z-]+)/gm))
    if (flag !== '--help') assert.ok(page.includes(flag), `${flag} is not in docs/cli.md`)
})

test('--version says what a bug report needs', async () => {
  await using cli = commandLine()
  const { code, stdout } = await cli.run('--version')
  assert.equal(code, 0)
  assert.match(stdout, /^lifeboat \d+\.\d+\.\d+ \(repository format 1.*, Node \d+/)
})

function sink() {
  let text = ''
  const stream = new Writable({
    write(part, _encoding, done) {
      text += String(part)
      done()
    },
  })
  return { stream, text: () => text }
}

function output(options: { json?: boolean; quiet?: boolean; progress?: boolean } = {}) {
  const [out, err] = [sink(), sink()]
  const shown = new Output(out.stream, err.stream, { json: false, quiet: false, progress: false, ...options })
  return { shown, out: out.text, err: err.text }
}

test('tables are aligned, and no name can break them or the terminal', () => {
  const { shown, out } = output()
  shown.table(
    [{ title: 'NAME' }, { title: 'SIZE', align: 'right' }, { title: 'NOTE' }],
    [
      ['vda', '1 B', ''],
      ['a\nb\u001b[2Jc\u009b', '100 KiB', 'x'],
    ],
  )
  assert.deepEqual(out().split('\n'), [
    'NAME          SIZE  NOTE',
    'vda            1 B',
    'a\ufffdb\ufffd[2Jc\ufffd  100 KiB  x',
    '',
  ])
})

test('--json prints one document, with progress in lines before it; --quiet silences messages, never warnings', () => {
  const json = output({ json: true, progress: true })
  const bar = json.shown.progress()
  bar.update(1, 2, 'vda')
  bar.stop()
  json.shown.result({ at: new Date(0), secret: new Uint8Array(3), none: undefined }, () => assert.fail())
  assert.deepEqual(
    json
      .out()
      .trim()
      .split('\n')
      .map(line => JSON.parse(line)),
    [{ progress: { done: 1, total: 2, label: 'vda' } }, { at: '1970-01-01T00:00:00.000Z' }],
  )
  const quiet = output({ quiet: true })
  quiet.shown.message('by the way')
  quiet.shown.warning('look out')
  quiet.shown.progress().update(1, 2, 'vda')
  assert.deepEqual([quiet.out(), quiet.err()], ['', 'warning: look out\n'])
})
