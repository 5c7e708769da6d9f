/** A process that keeps an appliance over one empty disk, for tests that kill it: says QEMU's pid, and stays. */
import { memoryDevice } from '../../src/block/memory.ts'
import { ownAppliance } from './own-appliance.ts'

let pid: number | undefined
const { open } = ownAppliance({
  onStart: started => {
    pid = started
  },
  temporary: process.argv[2] ?? '',
})
await using _guests = await open([{ name: 'vda', image: memoryDevice(new Uint8Array(1024 * 1024)) }])
process.stdout.write(`${pid}\n`)
await new Promise(() => setInterval(() => {}, 1_000_000))
