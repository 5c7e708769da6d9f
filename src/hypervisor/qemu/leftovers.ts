/**
 * Takes everything of ours out of a QEMU, by looking at what is there: the end of every capture, and the first step of the
 * next one after a kill at any moment. Each step may have been done already. Bitmaps are not touched: see bitmaps.ts.
 */
import { messageOf } from '../../core/errors.ts'
import { busy, isAlive, parseRunner } from '../run-lock.ts'
import { devicePath, OURS, queryFilteredNodes, queryNodes } from './block-nodes.ts'
import { removeOurExports } from './exports.ts'
import type { Guest } from './instant.ts'
import { asList, asObject, optionalObject, optionalText, textOf } from './json.ts'
import { HOLD_MARKER, NBD_MARKER, queryMarkers, RUN_MARKER, unmark } from './markers.ts'
import type { QmpClient } from './qmp.ts'

/**
 * Throws 'vm-busy' where the run whose marker is found is alive: QEMU may have several QMP sockets. `dead` names one (as its
 * marker does) that is known to be: a process that is being killed closes its files before it stops being seen.
 */
export async function refuseWhileCaptured(qmp: QmpClient, what: string, dead?: string): Promise<void> {
  for (const marker of await queryMarkers(qmp)) {
    if (marker === RUN_MARKER + dead) continue
    const runner = marker.startsWith(RUN_MARKER) ? parseRunner(marker.slice(RUN_MARKER.length)) : undefined
    if (runner && (await isAlive(runner))) throw busy(what, runner)
  }
}

export async function removeRunMarkers(qmp: QmpClient): Promise<void> {
  for (const marker of await queryMarkers(qmp)) if (marker.startsWith(RUN_MARKER)) await unmark(qmp, marker)
}

/** All but the marker of the run. Gives the fleecing images that are no longer used. The guest is let go first; its thaw failing is thrown at the end. */
export async function removeOurs(guest: Guest): Promise<readonly string[]> {
  const { qmp } = guest
  const markers = await queryMarkers(qmp)
  const trouble = markers.includes(HOLD_MARKER) ? await letGo(guest) : undefined

  // Exports before jobs: without its job, the fallback's view would go on to show what the guest writes from then on.
  const { others } = await removeOurExports(qmp)
  await removeOurJobs(qmp)
  if (markers.includes(NBD_MARKER)) {
    // Killed just before our server started, another's may run: its exports show that.
    if (!others) await qmp.execute('nbd-server-stop').catch(() => undefined)
    await unmark(qmp, NBD_MARKER)
  }
  const images = await removeOurNodes(qmp)
  if (markers.includes(HOLD_MARKER) && !trouble) await unmark(qmp, HOLD_MARKER)
  if (trouble) throw trouble
  return images
}

/** Continues a guest that stands paused, and thaws it. Returns what stays wrong instead of throwing, so that the filters go too when the agent does not answer. */
async function letGo({ qmp, agent, log }: Guest): Promise<Error | undefined> {
  const status = optionalText(asObject(await qmp.execute('query-status')), 'status')
  if (status === 'paused') await qmp.execute('cont')
  if (!agent) return undefined
  try {
    if ((await agent.status()) === 'frozen') await agent.thaw()
    return undefined
  } catch (error) {
    log(`whether the guest is still frozen from an earlier run could not be found out: ${messageOf(error)}`)
    return error instanceof Error && 'details' in error && asObject(error.details).frozen === true ? error : undefined
  }
}

async function removeOurJobs(qmp: QmpClient): Promise<void> {
  const jobs = asList(await qmp.execute('query-block-jobs')).map(job => textOf(job, 'device'))
  const ours = jobs.filter(job => job.startsWith(OURS))
  for (const id of ours)
    await qmp.until(
      ({ event, data }) => /^BLOCK_JOB_(CANCELLED|COMPLETED)$/.test(event) && data.device === id,
      () => qmp.execute('block-job-cancel', { device: id, force: true }),
    )
  if (ours.length === 0) return
  // The job's full image had stopped the guest at a write of its own, which now finds its way past.
  const status = optionalText(asObject(await qmp.execute('query-status')), 'status')
  if (status === 'io-error') await qmp.execute('cont')
}

async function removeOurNodes(qmp: QmpClient): Promise<string[]> {
  const ours = (await queryNodes(qmp)).filter(({ name }) => name.startsWith(OURS))
  if (ours.length === 0) return []
  const named = (kind: string) => ours.filter(({ name }) => name.endsWith(kind))
  const remove = async (name: string) => qmp.execute('blockdev-del', { 'node-name': name })

  for (const { name } of named('-view')) await remove(name)
  await restoreDrives(qmp)
  for (const { name } of named('-filter')) await remove(name)
  for (const { name } of named('-fleece')) await remove(name)
  return named('-fleece').flatMap(({ file }) => (file === undefined ? [] : [file]))
}

async function restoreDrives(qmp: QmpClient): Promise<void> {
  const below = await queryFilteredNodes(qmp)
  if (below.size === 0) return
  for (const device of asList(await qmp.execute('query-block'))) {
    const node = optionalText(optionalObject(device, 'inserted'), 'node-name') ?? ''
    const value = below.get(node)
    const qdev = optionalText(device, 'qdev')
    if (value !== undefined && qdev !== undefined)
      await qmp.execute('qom-set', { path: devicePath(qdev), property: 'drive', value })
  }
}
