/** A backup in a process of its own, which kills itself before or after its k-th QMP command. Prints how many there were. */
import { systemClock } from '../../src/core/clock.ts'
import { systemRandom } from '../../src/core/random.ts'
import { type QemuSettings, qemuHypervisor } from '../../src/hypervisor/qemu/qemu-hypervisor.ts'
import { openShelf } from './shelf.ts'

export interface ChildOrder extends Pick<QemuSettings, 'qmp' | 'guestAgent' | 'method'> {
  readonly fleecingDir: string
  readonly guarded: boolean
  readonly shelfDir: string
  readonly kill?: { readonly at: number; readonly moment: 'before' | 'after' }
}

const order: ChildOrder = JSON.parse(process.argv[2] ?? '{}')
let count = 0
const hypervisor = qemuHypervisor({
  qmp: order.qmp,
  guestAgent: order.guestAgent,
  ...(order.guarded ? {} : { guard: () => ({ [Symbol.dispose]() {} }) }),
  method: order.method,
  clock: systemClock,
  random: systemRandom,
  fleecingFreeMin: 0,
  log: message => console.error(message),
  trace(moment) {
    if (moment === 'before') count++
    if (order.kill?.at === count && order.kill.moment === moment) process.kill(process.pid, 'SIGKILL')
  },
})
const shelf = await openShelf(order.shelfDir)
await shelf.backup({ hypervisor, fleecingDir: order.fleecingDir })
console.log(count)
