/** The child of the directory store's crash test: a fixed series of puts and deletes, each told on stdout once it is durable. */
import { writeSync } from 'node:fs'
import { nodeFiles } from '../../src/storage/files.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'
import { crashPoint } from './crash.ts'
import { crashFiles } from './crash-files.ts'

export const versionBytes = (key: string, version: number): Uint8Array =>
  new Uint8Array(40_000 + version * 1_000).map((_, at) => (at * 31 + version * 7 + key.length) & 0xff)

const [root] = process.argv.slice(2)
if (root !== undefined && import.meta.main) {
  const point = crashPoint()
  const store = filesystemStore(root, { files: crashFiles(nodeFiles, point.reach), create: true })
  // Synchronous, so that the line is in the pipe before the next mutation begins.
  const acknowledge = (line: string) => writeSync(1, `${line}\n`)
  const put = async (key: string, version: number, ifAbsent = false) => {
    await store.put(key, [versionBytes(key, version)], { ifAbsent })
    acknowledge(`put ${key} ${version}`)
  }
  await put('packs/ab/one', 1)
  await put('config', 1)
  await put('config', 2)
  await put('leases/x', 1, true)
  await store.delete(['packs/ab/one'])
  acknowledge('delete packs/ab/one 0')
  await put('packs/ab/one', 2)
  point.finish()
}
