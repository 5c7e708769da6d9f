/** A bar over all phases of a collection, and in words in what state things are when it is stopped. */
import type { GcPhase, GcProgress } from '../maintenance/gc-progress.ts'
import type { Output } from './output.ts'
import { phasedBar } from './phased-bar.ts'
import { formatSeconds } from './units.ts'

export interface GcBar {
  readonly update: (progress: GcProgress) => void
  stop(): void
  /** For whoever pressed Ctrl-C. */
  stage(): string
}

const LABELS: Readonly<Record<GcPhase, string>> = {
  listing: 'listing packs',
  marking: 'marking points',
  leases: 'waiting for backups',
  grace: 'waiting for the grace',
  'marking-again': 'marking again',
  removing: 'removing packs',
  compacting: 'rewriting packs',
}

export function gcProgress(output: Output): GcBar {
  const bar = phasedBar(output)
  let phase: GcPhase | undefined
  let told = ''
  return {
    update(progress) {
      const { done, total, waitsFor = [], remainingMs } = progress
      phase = progress.phase
      const names = waitsFor.slice(0, 3).join(', ') + (waitsFor.length > 3 ? `, ${waitsFor.length - 3} more` : '')
      const left = remainingMs === undefined ? '' : ` for ${formatSeconds(remainingMs / 1000)} at most`
      const label = waitsFor.length > 0 ? `waiting for ${names}${left}` : LABELS[phase]
      const say = phase === 'grace' ? (ms: number) => formatSeconds(ms / 1000) : String
      bar.update(phase, done, total, { label, say })
      // Where there is no bar, a log shows once what is waited for.
      if (!bar.isShown && waitsFor.length > 0 && names !== told) {
        told = names
        output.message(label)
      }
    },
    stop: () => bar.stop(),
    stage: () =>
      phase === 'removing' || phase === 'compacting'
        ? 'Stopped between two deletions: every point that is listed is whole, and the next collection does the rest.'
        : 'Stopped: nothing was deleted.',
  }
}
