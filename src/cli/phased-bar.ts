/** A bar over work of several phases: the estimate is that of the phase which its label names. */
import type { Output } from './output.ts'

export interface PhasedBar extends Disposable {
  readonly isShown: boolean
  /** `phase`: where it changes a new estimate begins. `say`: how people read the numbers; as they are unless it is given. */
  update(
    phase: string,
    done: number,
    total: number,
    options?: { label?: string; say?: (amount: number) => string },
  ): void
  stop(): void
}

export function phasedBar(output: Output): PhasedBar {
  let bar = output.progress()
  let current: string | undefined
  const stop = () => bar.stop()
  return {
    get isShown() {
      return bar.isShown
    },
    update(phase, done, total, { label = phase, say = String } = {}) {
      if (phase !== current) {
        bar.stop()
        bar = output.progress(say)
      }
      current = phase
      bar.update(done, total, label)
    },
    stop,
    [Symbol.dispose]: stop,
  }
}
