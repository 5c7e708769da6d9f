/** What `session resume` goes on with: the session's repository, or the copy of all its disks on this host. */
import { nodeOverlayFiles } from '../block/overlay-files.ts'
import { ChunkCache } from '../cache/chunk-cache.ts'
import type { OlderPoints } from '../recovery/disk-contexts.ts'
import { hydrationMark } from '../recovery/hydration.ts'
import { type HydrationMark, isWhole } from '../recovery/hydration-mark.ts'
import { lateRepository, summaryOf } from '../recovery/late-repository.ts'
import { folderOf } from '../recovery/session.ts'
import type { SessionState } from '../recovery/session-state.ts'
import type { VmTraces } from '../recovery/traced-session.ts'
import type { PointSummary, Repository } from '../repository/repository.ts'
import { olderPoints } from './changed-since.ts'
import type { Invocation } from './invocation.ts'
import { type LiveReadFlags, type LiveRepository, openForLiveReads } from './live-reads.ts'
import { openRepositoryOf, pointOf } from './session-repository.ts'
import { parseBytes } from './units.ts'

/** What a session goes on with. */
export interface Resumed extends AsyncDisposable {
  readonly repository: Repository
  readonly point: PointSummary
  readonly older?: OlderPoints
  readonly cache: ChunkCache
  traces(vm: string): VmTraces | undefined
  figures(): Readonly<Record<string, number>>
}

/** Where all of the session's disks are on this host, its repository is opened when something else is asked of it. */
export async function openToResume(
  invocation: Invocation,
  state: SessionState,
  flags: LiveReadFlags,
): Promise<Resumed> {
  const mark = state.hydrate && (await hydrationMark(nodeOverlayFiles, folderOf(invocation.stateDir, state.name)))
  const isHere = mark?.manifest.point === state.point.id && mark.repository.id === state.repository.id && isWhole(mark)
  const open = () => openRepositoryOf(state, () => openForLiveReads(invocation, flags))
  return isHere ? resumedHere(mark, open, flags) : await resumedFrom(await open(), state, invocation.signal)
}

async function resumedFrom(opened: LiveRepository, state: SessionState, signal: AbortSignal): Promise<Resumed> {
  try {
    const point = await pointOf(opened, state, signal)
    const points = await opened.repository.points({ vm: point.vm })
    const older = points.filter(({ takenAt }) => takenAt < point.takenAt)
    return { ...opened, point, older: olderPoints(opened.repository, point.vm, older) }
  } catch (error) {
    await opened[Symbol.asyncDispose]()
    throw error
  }
}

function resumedHere(mark: HydrationMark, open: () => Promise<LiveRepository>, { cacheSize }: LiveReadFlags): Resumed {
  let opened: LiveRepository | undefined
  const repository = lateRepository(mark, async () => {
    opened = await open()
    return opened.repository
  })
  return {
    repository,
    point: summaryOf(mark),
    cache: new ChunkCache({ maxBytes: parseBytes(cacheSize, '--cache-size') }),
    traces: () => undefined,
    figures: () => opened?.figures() ?? {},
    [Symbol.asyncDispose]: async () => void (await opened?.[Symbol.asyncDispose]()),
  }
}
