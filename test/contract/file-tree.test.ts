import { mkdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { copyOut } from '../../src/files/copy-out.ts'
import { directory, file, memoryTree } from '../../src/files/memory-tree.ts'
import { directoryTree } from '../doubles/directory-tree.ts'
import { fileTreeContract, manyNames, sampleTree } from './file-tree-contract.ts'

const many = directory(Object.fromEntries(manyNames().map(name => [name, file(name)])))

fileTreeContract({ name: 'memory', open: async () => memoryTree({ ...sampleTree, many }) })

let folder: Promise<string> | undefined
after(async () => rm((await folder)!, { recursive: true }))

async function restoredSample(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'lifeboat-tree-'))
  await copyOut([{ path: [], node: memoryTree(sampleTree).root }], path, { resumeKey: 'sample' })
  mkdirSync(join(path, 'many'))
  for (const name of manyNames()) writeFileSync(join(path, 'many', name), name)
  return path
}

fileTreeContract({
  name: 'folder of this host',
  open: async () => {
    folder ??= restoredSample()
    return directoryTree(await folder)
  },
})
