/**
 * One goal of docs/performance.md: product against a named peer or limit, in the same run, as a ratio.
 * A peer that is missing gives 'not measured', never a pass.
 */
export interface Row {
  /** 'G9: stored / changed'. */
  readonly goal: string
  readonly product: string
  readonly peer: string
  readonly ratio: number | undefined
  readonly target: string
  readonly verdict: 'pass' | 'short' | 'not measured'
  /** Lowest and highest of the per-round ratios. */
  readonly spread?: readonly [number, number]
}

export interface BenchContext {
  /** Scratch folder of this goal, removed afterwards. */
  readonly dir: string
  /** Rounds, at least 1; 5 unless asked otherwise. */
  readonly rounds: number
  /** Raw figures, kept in bench/results/. */
  readonly record: (name: string, value: unknown) => void
  readonly say: (text: string) => void
}

export interface Goal {
  readonly id: string
  readonly title: string
  run(context: BenchContext): Promise<readonly Row[]>
}

export interface Measured {
  readonly goal: string
  readonly product: string
  readonly peer: string
  /** product / peer of each round; empty where the peer is missing. */
  readonly ratios: readonly number[]
  readonly target: { readonly atMost: number } | { readonly atLeast: number }
}

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

/** The median of the per-round ratios against the target. */
export function judge({ goal, product, peer, ratios, target }: Measured): Row {
  const text = 'atMost' in target ? `<= ${target.atMost}` : `>= ${target.atLeast}`
  if (ratios.length === 0 || ratios.some(ratio => !Number.isFinite(ratio)))
    return { goal, product, peer, ratio: undefined, target: text, verdict: 'not measured' }
  const ratio = median(ratios)
  const met = 'atMost' in target ? ratio <= target.atMost : ratio >= target.atLeast
  return {
    goal,
    product,
    peer,
    ratio,
    target: text,
    verdict: met ? 'pass' : 'short',
    spread: [Math.min(...ratios), Math.max(...ratios)],
  }
}
