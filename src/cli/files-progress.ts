/** The bar of `files get`. What there is in all is counted beside the copying, since files are told while directories are read. */
import type { AbortOptions } from '../core/scope.ts'
import type { CopyCounts } from '../files/copied.ts'
import { walk } from '../files/walk.ts'
import type { Target } from './files-targets.ts'
import type { Output } from './output.ts'

export interface GetProgress extends AsyncDisposable {
  readonly update: (counts: CopyCounts) => void
  stop(): void
}

export function getProgress(output: Output, targets: readonly Target[], options: AbortOptions): GetProgress {
  const bar = output.progress()
  const ended = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, ended.signal]) : ended.signal
  let total = 0
  const count = async () => {
    for (const { node } of targets)
      for await (const event of walk({ path: [], node }, { signal })) {
        if (event.kind !== 'entry' || event.node.kind !== 'file') continue
        const { size, allocated } = event.node.attributes()
        total += Math.min(size, allocated)
      }
  }
  // Whatever is wrong with the files, the copying tells; a count that failed is only a bar without its end.
  const counting = bar.isShown ? count().catch(() => {}) : undefined
  return {
    update: ({ bytes, files }) => bar.update(bytes, Math.max(bytes, total), `${files} files`),
    stop: () => bar.stop(),
    async [Symbol.asyncDispose]() {
      ended.abort()
      await counting
      bar.stop()
    },
  }
}
