/** One run of the register check, apart from the test runner. */
import { truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import type { BlockDevice } from '../../src/block/block-device.ts'
import { fileDevice } from '../../src/block/file.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import { openHere } from '../../src/cli/overlays.ts'
import { seededRandom } from '../../src/core/random.ts'
import { slowDevice } from '../doubles/slow-device.ts'
import { checkServer, type RegisterRun, SECTORS } from './nbd-register.ts'

const run: RegisterRun = workerData
const size = SECTORS * 512

async function deviceOf({ kind, folder, seed }: RegisterRun): Promise<BlockDevice> {
  if (kind === 'memory') return memoryDevice(Buffer.alloc(size))
  if (kind === 'slow memory') return slowDevice(memoryDevice(Buffer.alloc(size)), seededRandom(`${seed}`))
  if (kind === 'overlay') {
    const disks = [{ name: 'disk', base: memoryDevice(Buffer.alloc(size)) }]
    return (await openHere({ folder: join(folder, 'overlay'), disks, durableReplies: false })).disk('disk')
  }
  await writeFile(join(folder, 'disk'), '')
  await truncate(join(folder, 'disk'), size)
  return fileDevice(join(folder, 'disk'), { readOnly: false })
}

await using device = await deviceOf(run)
parentPort?.postMessage(await checkServer(device, run))
