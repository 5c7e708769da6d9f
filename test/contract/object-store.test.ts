import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { filesystemStore } from '../../src/storage/filesystem.ts'
import { memoryStore } from '../../src/storage/memory.ts'
import { objectStoreContract } from './object-store-contract.ts'

async function scratchFolder(cleanup: AsyncDisposableStack): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-store-'))
  cleanup.defer(() => rm(folder, { recursive: true, force: true }))
  return folder
}

objectStoreContract({ name: 'directory', open: async cleanup => filesystemStore(await scratchFolder(cleanup)) })
objectStoreContract({
  name: 'directory made by the first put, listed in pages of 100',
  open: async cleanup =>
    filesystemStore(join(await scratchFolder(cleanup), 'new', 'deep'), { create: true, pageNames: 100 }),
})
objectStoreContract({ name: 'memory', open: async () => memoryStore() })
