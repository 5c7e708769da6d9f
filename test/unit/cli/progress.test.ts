/** Work that may take long shows how far it is and how long it will take: to people on a terminal, and to nobody else. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { done } from '../../doubles/bad-input.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { overS3 } from '../../doubles/s3-command-line.ts'

test('each command that may take long has a bar with an estimate on a terminal, and with --json nothing but its result', async () => {
  await using place = await overS3({ objectLock: true }, { terminal: true })
  const { cli } = place
  const content = patternBytes(300_000, 1)
  await writeFile(cli.at('disk'), content)
  // On a terminal init asks nothing, for the key file is named.
  done(await cli.json('init --chunk-size 4KiB --lock-mode governance --lock-for 30d'))
  const image = `backup web1 --image vda=${cli.at('disk')}`
  const long: readonly (readonly [words: string, labels: readonly string[]])[] = [
    [image, ['vda']],
    [`${image} --dry-run`, ['vda, comparing']],
    [`restore web1@latest/vda --output ${cli.at('out')} --force`, ['vda']],
    ['verify --all', ['records', 'all objects']],
    ['verify --stored', ['packs']],
    ['hold add web1@latest --reason audit', ['setting legal holds']],
    ['lock renew', ['reading points', 'marking points', 'extending locks']],
    ['lock renew --dry-run', ['extending locks']],
    ['prune --keep-last 1', ['reading points']],
    ['gc --grace 0s', ['marking points']],
    ['key rotate --data', ['new data keys']],
  ]
  done(await cli.json('policy set --keep-daily 7'))
  for (const [words, labels] of long) {
    const { stdout, stderr } = done(await cli.run(words))
    for (const label of labels) assert.match(stderr, new RegExp(`${label} .*% \\| .* of .* \\| .* left`), words)
    assert.doesNotMatch(stdout, /left/, words)
    // Parsed by `json`: one document.
    assert.doesNotMatch(done(await cli.json(words)).stderr, /left/, words)
  }
  const hold = /"id":"([0-9a-f]{16})"/.exec((await cli.json('hold list')).stdout)?.[1]
  assert.match(done(await cli.run(`hold remove --hold ${hold}`)).stderr, /lifting legal holds .* left/)
})

test('with --json --progress each line is a document, and the last is the result', async () => {
  await using place = await overS3({})
  const { cli } = place
  done(await cli.json('init --chunk-size 4KiB'))
  await writeFile(cli.at('disk'), patternBytes(100_000, 2))
  const { stdout } = done(await cli.run(`--json --progress backup web1 --image vda=${cli.at('disk')}`))
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map(line => Object.keys(JSON.parse(line) as object))
  assert.ok(lines.length > 1)
  assert.ok(lines.slice(0, -1).every(([name]) => name === 'progress'))
  assert.ok(lines.at(-1)?.includes('point'))
})

test('points that go, and packs after them, are counted while they go', async () => {
  await using place = await overS3({}, { terminal: true })
  const { cli } = place
  done(await cli.json('init --chunk-size 4KiB'))
  for (const seed of [1, 2, 3]) {
    await writeFile(cli.at('disk'), patternBytes(50_000, seed))
    done(await cli.json(`backup web1 --image vda=${cli.at('disk')}`))
  }
  const { stderr } = done(await cli.run('prune --keep-last 1'))
  assert.match(stderr, /forgetting points .* of 2 \| .* left/)
  const collected = done(await cli.run('gc --grace 0s')).stderr
  for (const label of ['marking points', 'removing packs'])
    assert.match(collected, new RegExp(`${label} .* of .* \\| .* left`))
})
