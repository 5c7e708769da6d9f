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

for (const handles of ['yes', 'no'])
  fileTreeContract({
    name: `the agent's, with file handles: ${handles}`,
    open: async cleanup => {
      const { guests } = cleanup.use(await agentGuests({ volume: folder }, { flags: ['--handles', handles] }))
      return await guests.open('volume')
    },
  })
