import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { fileTreeContract, manyNames, sampleTree } from '../../contract/file-tree-contract.ts'
import { agentGuests } from '../../doubles/guest-agent.ts'
import { writeTree } from '../../doubles/written-sample.ts'

const folder = await mkdtemp(join(tmpdir(), 'remote-tree-'))
await writeTree(folder, sampleTree)
await mkdir(join(folder, 'many'))
for (const name of manyNames()) await writeFile(join(folder, 'many', name), '')
after(() => rm(folder, { recursive: true }))

fileTreeContract({
  name: 'the agent',
  open: async cleanup => await cleanup.use(await agentGuests({ volume: folder })).guests.open('volume'),
})
