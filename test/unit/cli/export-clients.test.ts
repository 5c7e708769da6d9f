/** What `export` hands to its server from what was said on the command line: how long replies wait, and what permissions name. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import path from 'node:path'
import { test } from 'node:test'
import { NOTE_POSITIONS } from '../../../src/block/overlay-format.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { KiB, MiB } from '../../../src/core/limits.ts'
import { connectNbd } from '../../../src/nbd/client.ts'
import * as C from '../../../src/nbd/constants.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import { certificateAuthority, credentialFolder } from '../../doubles/certificates.ts'
import { type CommandLine, commandLine } from '../../doubles/command-line.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { RawNbdClient } from '../../doubles/raw-nbd-client.ts'

async function withPoint(): Promise<CommandLine> {
  const cli = commandLine()
  cli.environment.LIFEBOAT_REPO = cli.at('repo')
  await writeFile(cli.at('disk.raw'), patternBytes(MiB))
  assert.equal((await cli.run('init --no-encryption')).code, 0)
  assert.equal((await cli.run(['backup', 'web1', '--image', `vda=${cli.at('disk.raw')}`])).code, 0)
  return cli
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise(resolve => server.close(resolve))
  return typeof address === 'object' && address !== null ? address.port : assert.fail('no port')
}

/** Runs `use` while `words` are served; `isUp` tells when they are. */
async function whileServed(
  cli: CommandLine,
  words: readonly string[],
  isUp: () => Promise<boolean>,
  use: () => Promise<void>,
) {
  const stop = new AbortController()
  let ended = false
  const serving = cli.run(['export', ...words], stop).finally(() => {
    ended = true
  })
  while (!ended && !(await isUp())) await new Promise(resolve => setTimeout(resolve, 20))
  try {
    assert.ok(!ended, (await Promise.race([serving, undefined]))?.stderr)
    await use()
  } finally {
    stop.abort(new LifeboatError('interrupted', 'stopped by SIGTERM'))
    await serving
  }
}

const takesClients = (where: number | string) => async () => {
  if (typeof where === 'string') return existsSync(where)
  return await RawNbdClient.connect(where).then(
    client => client[Symbol.asyncDispose]().then(() => true),
    () => false,
  )
}

/** A sync leaves its note in the head of the journal. */
async function wasSynced(overlay: string): Promise<boolean> {
  const names = (await readdir(overlay)).filter(name => name.startsWith('journal-'))
  const heads = await Promise.all(names.map(name => readFile(path.join(overlay, name))))
  return heads.some(head => NOTE_POSITIONS.some(at => head.readBigUInt64LE(at) !== 0n))
}

test('a write from another host is answered when it is durable; one from this host when it would outlive the server', async () => {
  await using cli = await withPoint()
  const port = await freePort()
  const tcp = ['--listen', `127.0.0.1:${port}`, '--insecure']
  const unix = ['--socket', cli.at('s')]
  const file = ['--file', cli.at('disk.raw'), '--overlay']
  const session = (name: string) => path.join(cli.dir, 'state', 'sessions', name, 'overlay')
  for (const [words, exportName, overlay, durable] of [
    [[...file, ...unix], 'file', cli.at('disk.raw.overlay'), false],
    [[...file, ...tcp], 'file', cli.at('disk.raw.overlay'), true],
    [['web1@latest', '--session', 'near', ...unix], 'vda', session('near'), false],
    [['web1@latest', '--session', 'far', ...tcp], 'vda', session('far'), true],
  ] as const) {
    const isTcp = words.includes('--listen')
    await whileServed(cli, [...words, '--writable'], takesClients(isTcp ? port : cli.at('s')), async () => {
      const where = isTcp ? { host: '127.0.0.1', port } : { socket: cli.at('s') }
      await using client = await connectNbd({ ...where, exportName, clock: systemClock })
      await client.write(Buffer.alloc(4 * KiB, 3), 8 * KiB)
      assert.equal(await wasSynced(overlay), durable, words.join(' '))
    })
  }
})

test('permissions call the disks of a point VM/DISK', async () => {
  await using cli = await withPoint()
  const ca = certificateAuthority()
  const [server, alice, mallory] = ['server', 'alice', 'mallory'].map(commonName => ca.issue({ commonName }))
  const permissions = { clients: { 'cn:alice': ['web1/vda'], 'cn:mallory': ['vda', 'file', 'web2/*'] } }
  await credentialFolder(cli.at('tls'), { ca: ca.certificate, server: server!, permissions })
  const words = ['web1@latest', '--socket', cli.at('s'), '--tls', cli.at('tls'), '--tls-verify']
  await whileServed(cli, words, takesClients(cli.at('s')), async () => {
    for (const [who, names] of [
      [alice!, ['vda']],
      [mallory!, []],
    ] as const) {
      await using client = await RawNbdClient.open(cli.at('s'))
      await client.startTls({ cert: who.certificate, key: who.key })
      const listed = (await client.option(C.NBD_OPT_LIST)).flatMap(({ type, payload }) =>
        type === C.NBD_REP_SERVER ? [O.parseServer(payload)?.name] : [],
      )
      assert.deepEqual(listed, names)
    }
  })
})
