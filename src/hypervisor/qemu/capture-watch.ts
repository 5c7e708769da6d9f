/**
 * A dead man's switch, as a program of its own: it waits at a pipe whose other end only the capturing process holds. Should
 * that process be killed, the pipe ends, and this one takes all of Lifeboat out of QEMU within a moment, instead of the next
 * backup hours later: until then a guest could stand paused or frozen, the fleecing image grow until its disk is full, and
 * in the fallback the guest stop at that. Bitmaps are left to the next backup, which knows which points exist.
 */
import { rm } from 'node:fs/promises'
import { text } from 'node:stream/consumers'
import { systemClock } from '../../core/clock.ts'
import { isLifeboatError, messageOf } from '../../core/errors.ts'
import { systemRandom } from '../../core/random.ts'
import { RELEASED, type Watched } from './capture-guard.ts'
import { isFleecingImage } from './fleecing.ts'
import { guestAgent } from './guest-agent.ts'
import { refuseWhileCaptured, removeOurs, removeRunMarkers } from './leftovers.ts'
import { connectQmp } from './qmp.ts'

const log = (message: string) => console.error(`lifeboat: ${message}`)

async function takeOut({ qmp: socket, guestAgent: agentSocket, runner }: Watched): Promise<void> {
  await using qmp = await connectQmp({ socket, clock: systemClock })
  const agent =
    agentSocket === undefined
      ? undefined
      : guestAgent({ socket: agentSocket, clock: systemClock, random: systemRandom })
  // A later run that is quicker than we has cleaned up already, and is alive.
  await refuseWhileCaptured(qmp, 'the machine', runner)
  const images = await removeOurs({ qmp, agent, clock: systemClock, log })
  for (const image of images) if (isFleecingImage(image)) await rm(image, { force: true })
  await removeRunMarkers(qmp)
}

async function takeOutSoon(watched: Watched): Promise<void> {
  for (let attempt = 0; attempt < 5; attempt++)
    try {
      return await takeOut(watched)
    } catch (error) {
      if (isLifeboatError(error, 'vm-busy')) return
      log(`cleaning up after a killed backup: ${messageOf(error)}`)
      await systemClock.sleep(1000)
    }
}

const watched: Watched = JSON.parse(process.argv[2] ?? '{}')
if ((await text(process.stdin)) !== RELEASED) {
  log('a backup was killed: taking what it put into the machine out again')
  await takeOutSoon(watched)
}
