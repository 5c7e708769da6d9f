import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { MiB } from '../../../src/core/limits.ts'
import { fileTreeContract, manyNames, sampleTree } from '../../contract/file-tree-contract.ts'
import { agentGuests } from '../../doubles/guest-agent.ts'
import { writeTree } from '../../doubles/written-sample.ts'

const folder = await mkdtemp(join(tmpdir(), 'remote-tree-full-'))
const sample = join(folder, 'sample')
await mkdir(join(sample, 'many'), { recursive: true })
await writeTree(sample, sampleTree)
for (const name of manyNames()) await writeFile(join(sample, 'many', name), '')
after(() => rm(folder, { recursive: true }))

fileTreeContract({
  name: 'the agent without file handles',
  open: async cleanup => {
    const opened = cleanup.use(await agentGuests({ volume: sample }, { flags: ['--handles', 'no'] }))
    return await opened.guests.open('volume')
  },
})

test('100,000 entries come once each, page by page, in bounded memory', async t => {
  const huge = join(folder, 'huge')
  await mkdir(huge)
  execFileSync('sh', ['-c', 'seq 100000 | xargs touch'], { cwd: huge })
  for (const handles of ['yes', 'no']) {
    await using opened = await agentGuests({ volume: huge }, { flags: ['--handles', handles] })
    const { root } = await opened.guests.open('volume')
    const before = process.memoryUsage.rss()
    const seen = new Set<string>()
    let batches = 0
    for await (const entries of root.list()) {
      batches++
      for (const { name } of entries) seen.add(name)
    }
    assert.equal(seen.size, 100_000)
    const grown = (process.memoryUsage.rss() - before) / MiB
    t.diagnostic(`handles ${handles}: ${batches} batches, ${grown.toFixed(0)} MiB more`)
    assert.ok(batches > 20 && grown < 200)
    assert.equal((await root.lookup('77777'))?.kind, 'file')
    assert.equal(await root.lookup('100001'), undefined)
  }
})
