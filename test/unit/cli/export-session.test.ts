/** `export --session`: words that contradict what the session is are refused before anybody is served. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import { MiB } from '../../../src/core/limits.ts'
import { commandLine } from '../../doubles/command-line.ts'
import { patternBytes } from '../../doubles/pattern.ts'

test('--tls-verify without --tls, --writable for a session without, and a socket that systemd passes are refused', async () => {
  await using cli = commandLine()
  const repo = ['--repo', cli.at('repo')]
  await writeFile(cli.at('disk.raw'), patternBytes(MiB))
  assert.equal((await cli.run([...repo, 'init', '--no-encryption'])).code, 0)
  assert.equal((await cli.run([...repo, 'backup', 'web1', '--image', `vda=${cli.at('disk.raw')}`])).code, 0)

  const refused = async (words: readonly string[], message: RegExp, hint: RegExp) => {
    // What is not refused is served: not for ever.
    const signal = AbortSignal.timeout(60_000)
    const { code, error } = await cli.json([...repo, 'export', 'web1@latest', ...words], { signal })
    assert.deepEqual([code, error.code], [2, 'usage'])
    assert.match(String(error.message), message)
    assert.match(String(error.hint), hint)
  }
  await refused(['--session', 'new', '--tls-verify'], /--tls-verify goes with --tls/, /--tls DIR/)
  assert.ok(!existsSync(cli.at('state', 'sessions', 'new')), 'nothing was begun')

  const socket = cli.at('s')
  const stop = new AbortController()
  const serving = cli.run([...repo, 'export', 'web1@latest', '--session', 'reader', '--socket', socket], stop)
  while (!existsSync(socket)) await Promise.race([serving, new Promise(resolve => setTimeout(resolve, 20))])
  stop.abort(new LifeboatError('interrupted', 'stopped by SIGTERM'))
  assert.equal((await serving).code, 0)
  await refused(['--session', 'reader', '--writable'], /reader was begun without --writable/, /begin another one/)

  Object.assign(cli.environment, { LISTEN_PID: String(process.pid), LISTEN_FDS: '1' })
  await refused(['--session', 'reader'], /an address of its own/, /--socket or --listen/)
})
