/** A client of `lifeboat export` asks what differs from an older point: by our own client, and by another project's. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { open, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { KiB, MiB } from '../../../src/core/limits.ts'
import { connectNbd } from '../../../src/nbd/client.ts'
import { type CommandLine, commandLine } from '../../doubles/command-line.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { lacking, run } from '../../doubles/peer-tools.ts'

const SIZE = 4 * MiB

async function backup(cli: CommandLine): Promise<string> {
  const { code, json, stderr } = await cli.json(`--repo ${cli.at('repo')} backup web --image vda=${cli.at('disk')}`)
  assert.equal(code, 0, stderr)
  return (json as { point: string }).point
}

async function overwrite(cli: CommandLine, offset: number, bytes: Uint8Array): Promise<void> {
  const file = await open(cli.at('disk'), 'r+')
  await file.write(bytes, 0, bytes.length, offset)
  await file.close()
}

/** Serves until the scope ends. */
async function exported(cli: CommandLine, point: string): Promise<AsyncDisposable> {
  const stop = new AbortController()
  const ended = cli.run(`--repo ${cli.at('repo')} export web@${point} --socket ${cli.at('nbd')}`, stop)
  while (!existsSync(cli.at('nbd'))) await new Promise(resolve => setTimeout(resolve, 5))
  return {
    async [Symbol.asyncDispose]() {
      stop.abort(new LifeboatError('interrupted', 'stopped'))
      assert.equal((await ended).code, 0)
    },
  }
}

test('changed-since: the difference to each older point, exactly as `diff` tells it, and none to a newer one', async () => {
  await using cli = commandLine()
  await cli.run(`init --repo ${cli.at('repo')} --no-encryption`)
  await writeFile(cli.at('disk'), patternBytes(SIZE))
  const first = await backup(cli)
  await overwrite(cli, 100 * KiB, patternBytes(200 * KiB, 2))
  const second = await backup(cli)
  await overwrite(cli, 3 * MiB, Buffer.alloc(64 * KiB))
  const third = await backup(cli)
  await overwrite(cli, 0, patternBytes(10, 9))
  const fourth = await backup(cli)

  await using _serving = await exported(cli, third)
  const contexts = [first, second, third, fourth].map(id => `x-lifeboat:changed-since:${id}`)
  await using client = await connectNbd({
    socket: cli.at('nbd'),
    exportName: 'vda',
    contexts: ['base:allocation', ...contexts],
    clock: systemClock,
  })
  assert.deepEqual(client.contexts.toSorted(), ['base:allocation', ...contexts.slice(0, 2)].toSorted())
  for (const older of [first, second]) {
    const status = client.blockStatus({ offset: 0, length: SIZE }, `x-lifeboat:changed-since:${older}`)
    const changed = (await Array.fromAsync(status)).filter(({ flags }) => flags === 1)
    const { json } = await cli.json(`--repo ${cli.at('repo')} diff web@${older} web@${third}`)
    const { disks } = json as { disks: { extents: { offset: number; length: number }[] }[] }
    assert.ok(changed.length > 0)
    assert.deepEqual(
      changed.map(({ offset, length }) => ({ offset, length })),
      disks[0]?.extents,
    )
  }
})

test('changed-since: nbdinfo lists one wildcard for all points and shows the map of one', {
  skip: lacking('nbdinfo'),
}, async () => {
  await using cli = commandLine()
  await cli.run(`init --repo ${cli.at('repo')} --no-encryption`)
  await writeFile(cli.at('disk'), patternBytes(SIZE))
  const first = await backup(cli)
  await overwrite(cli, MiB, patternBytes(64 * KiB, 2))
  const second = await backup(cli)
  await using _serving = await exported(cli, second)
  const uri = `nbd+unix:///vda?socket=${cli.at('nbd')}`
  const { exports } = JSON.parse(await run('nbdinfo', '--json', uri))
  assert.deepEqual(exports[0].contexts, ['base:allocation', 'x-lifeboat:changed-since:'])
  const map: { offset: number; length: number; type: number }[] = JSON.parse(
    await run('nbdinfo', `--map=x-lifeboat:changed-since:${first}`, '--json', uri),
  )
  assert.deepEqual(
    map.map(({ offset, length, type }) => [offset, length, type]),
    [
      [0, MiB, 0],
      [MiB, 64 * KiB, 1],
      [MiB + 64 * KiB, SIZE - MiB - 64 * KiB, 0],
    ],
  )
})
