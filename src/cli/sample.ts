import { LifeboatError } from '../core/errors.ts'

export function parsePercent(text: string): number {
  const percent = /^\d+(?:\.\d+)?%?$/.test(text) ? Number.parseFloat(text) : Number.NaN
  if (percent >= 0 && percent <= 100) return percent
  throw new LifeboatError('usage', `--sample '${text}' is no percentage from 0 to 100`, {
    hint: 'for example --sample 5 for every twentieth chunk',
  })
}
