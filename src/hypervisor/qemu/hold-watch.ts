/**
 * A dead man's switch, as a program of its own: it waits at a pipe whose other end only the capturing process holds. Should
 * that process die while the guest is paused or frozen, the pipe ends, and this one lets the guest go within milliseconds,
 * instead of the next backup hours later. Told that all is well, it just ends.
 */
import { text } from 'node:stream/consumers'
import { systemClock } from '../../core/clock.ts'
import { messageOf } from '../../core/errors.ts'
import { systemRandom } from '../../core/random.ts'
import { guestAgent } from './guest-agent.ts'
import { RELEASED, type Watched } from './hold-guard.ts'
import { letGo } from './leftovers.ts'
import { HOLD_MARKER, queryMarkers, unmark } from './markers.ts'
import { connectQmp } from './qmp.ts'

const log = (message: string) => console.error(`lifeboat: ${message}`)

async function release({ qmp: socket, guestAgent: agentSocket }: Watched): Promise<void> {
  await using qmp = await connectQmp({ socket, clock: systemClock })
  // Without the marker the guest was not held yet, not any more, or a later run has let it go already.
  if (!(await queryMarkers(qmp)).includes(HOLD_MARKER)) return
  log('the backup was killed while it held the guest: letting it go')
  const agent =
    agentSocket === undefined
      ? undefined
      : guestAgent({ socket: agentSocket, clock: systemClock, random: systemRandom })
  const trouble = await letGo({ qmp, agent, clock: systemClock, log })
  if (trouble) throw trouble
  await unmark(qmp, HOLD_MARKER)
}

const watched: Watched = JSON.parse(process.argv[2] ?? '{}')
if ((await text(process.stdin)) !== RELEASED)
  for (let attempt = 0; attempt < 5; attempt++)
    try {
      await release(watched)
      break
    } catch (error) {
      log(messageOf(error))
      await systemClock.sleep(1000)
    }
