/**
 * G6: a VM boots straight from a repository that is 10 ms a request away, as (local boot + read stalls) / local boot: the wall
 * time of an emulated boot swings by seconds, the time in which the guest's reads waited does not. The small VM in rounds,
 * Debian once, and Debian's requests once more with an eighth of its pauses (a host with KVM) from one backup and from what
 * many increments left. Each first by a session without a trace, then by one that has the trace of the first.
 */
import { debianImage } from '../test/guest/debian-image.ts'
import { tinyImage } from '../test/guest/tiny-image.ts'
import { replayCold, replayLocally } from './boot-replay.ts'
import { agedRepository, type BootRepository, freshRepository } from './boot-repository.ts'
import { type BootedDisk, coldBoot, firstBoots, localBoot, type ReadFigures } from './boots.ts'
import { type Goal, judge, type Row } from './goal.ts'
import type { DiskRequest } from './request-log.ts'

/** Of an emulated guest's pauses, those of one under KVM. */
const FASTER = 8
const FIRST = 1.5
const TRACED = 1.1

interface Pair {
  /** Seconds. */
  readonly local: number
  readonly first: { readonly seconds: number; readonly figures: ReadFigures }
  readonly traced: { readonly seconds: number; readonly figures: ReadFigures }
}

export const goal: Goal = {
  id: 'G6',
  title: 'cold boot at 10 ms a request',
  async run({ dir, rounds, record, say }) {
    const tell = (what: string, { local, first, traced }: Pair) =>
      say(`${what}: local ${local.toFixed(2)} s\n  first  ${text(local, first)}\n  traced ${text(local, traced)}`)
    const tiny = await tinyImage()
    const small: Pair[] = []
    for (let round = 0; round < rounds; round++) {
      const from = await freshRepository(tiny.disk, `${dir}/tiny-${round}`)
      const { requests: _, ...pair } = await boots(from, tiny, dir)
      small.push(pair)
      tell('small VM', pair)
    }
    record('small VM', small)
    firstBoots.set('small VM', small[0]!.first.figures)
    // Building it needs more of a host than the rest.
    const debian = await debianImage().catch(error => say(`no Debian: ${error}`))
    if (!debian) return [...rows('small VM', small), ...rows('Debian', [])]
    const { requests, ...pair } = await boots(await freshRepository(debian.disk, `${dir}/debian`), debian, dir)
    record('Debian', pair)
    firstBoots.set('Debian', pair.first.figures)
    tell('Debian', pair)
    const replays: Row[] = []
    for (const [history, from] of [
      ['one backup', await freshRepository(debian.disk, `${dir}/debian-again`)],
      ['60 increments', await agedRepository(debian.disk)],
    ] as const) {
      const what = `Debian's requests at ${FASTER} times the pace, ${history}`
      const pairs: Pair[] = []
      for (let round = 0; round < rounds; round++) {
        pairs.push(await replayedPair(requests, from, debian))
        tell(what, pairs.at(-1)!)
      }
      record(what, pairs)
      replays.push(...rows(what, pairs))
    }
    return [...rows('small VM', small), ...rows('Debian', [pair]), ...replays]
  },
}

async function boots(
  from: BootRepository,
  disk: BootedDisk,
  dir: string,
): Promise<Pair & { readonly requests: readonly DiskRequest[] }> {
  const local = await localBoot(disk, dir)
  const first = await coldBoot(from, disk, dir)
  const { requests, ...traced } = await coldBoot(from, disk, dir)
  return { local, first: { seconds: first.seconds, figures: first.figures }, traced, requests }
}

async function replayedPair(
  requests: readonly DiskRequest[],
  from: BootRepository,
  { disk }: BootedDisk,
): Promise<Pair> {
  const local = await replayLocally(requests, FASTER, disk)
  return {
    local,
    first: await replayCold(requests, FASTER, from, { isFirst: true }),
    traced: await replayCold(requests, FASTER, from, { isFirst: false }),
  }
}

const rows = (what: string, pairs: readonly Pair[]): Row[] =>
  (
    [
      ['first', FIRST],
      ['traced', TRACED],
    ] as const
  ).map(([which, atMost]) =>
    judge({
      goal: `G6: ${what}`,
      product: which === 'first' ? 'first boot' : 'boot with a trace',
      peer: 'local raw file',
      ratios: pairs.map(pair => ratio(pair.local, pair[which].figures)),
      target: { atMost },
    }),
  )

const ratio = (local: number, { stalls }: ReadFigures): number => (local + stalls.sum) / local

function text(local: number, { seconds, figures }: Pair['first']): string {
  const { stalls, gets, bytesRead, bytesOfGets, bytesDecoded, replayedChunks } = figures
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1)
  return (
    `${ratio(local, figures).toFixed(3)} (side by side ${((local + stalls.waited) / local).toFixed(3)}, wall ${(seconds / local).toFixed(2)}): ` +
    `${stalls.reads} reads waited ${stalls.sum.toFixed(2)} s; ${gets} GETs, ${mib(bytesOfGets)} MiB for ${mib(bytesRead)} MiB read, ` +
    `${mib(bytesDecoded)} MiB decoded, ${replayedChunks} chunks read ahead by the trace`
  )
}
