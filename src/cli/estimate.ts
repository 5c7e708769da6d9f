/** The answer of a dry run: what the command would ask of the store, in requests, bytes and money. */
import type { StoreFigures } from '../storage/metered.ts'
import { type Cost, costOf, FREE, type StoreUse } from '../storage/prices.ts'
import type { Invocation } from './invocation.ts'
import { requestsText } from './requests.ts'
import { formatBytes } from './units.ts'

export interface Estimate {
  /** Of the whole command, as a meter would have counted them. */
  readonly requests: StoreFigures
  /** How much more the store would keep. */
  readonly bytesKept: number
  /** What could not be found out without doing it is counted at its largest. */
  readonly isUpperBound?: boolean
}

/** `document` and `people`: what the command itself says, beside requests and money. */
export function showEstimate(
  { output, prices }: Invocation,
  { requests, bytesKept, isUpperBound = false }: Estimate,
  document: object,
  people: () => void,
): void {
  const { list, isAssumed } = prices
  const cost = costOf(useOf(requests, bytesKept), list)
  output.result(
    { estimated: true, isUpperBound, ...document, requests, bytesKept, cost: { ...cost, isAssumed } },
    () => {
      people()
      const bound = isUpperBound ? 'at most ' : ''
      output.line(`estimated, nothing was written: ${bound}${requestsText(requests) ?? 'no requests'}`)
      const change = `${formatBytes(Math.abs(bytesKept))} ${bytesKept < 0 ? 'less' : 'more'}`
      output.line(`  kept in the store: ${bound}${change}`)
      if (list.name === FREE.name) return
      output.line(
        `  at the prices of ${list.name}${isAssumed ? ' (assumed: name yours with `prices:`)' : ''}: ${words(cost)}`,
      )
    },
  )
}

/** Adds requests that a dry run did not make. */
export function withMore(
  figures: StoreFigures,
  more: Partial<Record<keyof StoreFigures, { readonly requests: number; readonly bytes: number }>>,
): StoreFigures {
  const sum: Record<string, unknown> = { ...figures }
  for (const [verb, { requests, bytes }] of Object.entries(more)) {
    const figure = figures[verb as keyof StoreFigures]
    sum[verb] = {
      ...figure,
      requests: figure.requests + requests,
      bytes: figure.bytes + bytes,
      objects: figure.objects + requests,
    }
  }
  return sum as StoreFigures
}

const useOf = (figures: StoreFigures, bytesKept: number): StoreUse => ({
  requests: Object.fromEntries(Object.entries(figures).map(([verb, { requests }]) => [verb, requests])),
  bytesUploaded: figures.put.bytes,
  bytesDownloaded: figures.get.bytes,
  bytesKept,
})

function words({ currency, requests, egress, storagePerMonth }: Cost): string {
  const money = (amount: number) => `${amount.toFixed(amount < 0.01 ? 6 : 2)} ${currency}`
  return `${money(requests)} for requests, ${money(egress)} if what is read leaves the provider's network, ${money(storagePerMonth)} more each month`
}
