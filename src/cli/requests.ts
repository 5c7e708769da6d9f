/** What a command asked of its store: one line for people, figures for --json. */
import { type StoreFigures, type StoreVerb, storeVerbs } from '../storage/metered.ts'
import { formatBytes } from './units.ts'

/** In the order in which people care: what is billed most first. */
const WORDS: readonly (readonly [StoreVerb, string])[] = [
  ['put', 'PUT'],
  ['list', 'LIST'],
  ['get', 'GET'],
  ['head', 'HEAD'],
  ['delete', 'DELETE'],
  ['lock', 'lock'],
  ['now', 'other'],
  ['probe', 'other'],
]

/** '5 PUT, 2 GET; 1.5 MiB up, 320 B down'; undefined where nothing was asked. */
export function requestsText(figures: StoreFigures): string | undefined {
  const counts = new Map<string, number>()
  for (const [verb, word] of WORDS) counts.set(word, (counts.get(word) ?? 0) + figures[verb].requests)
  const words = [...counts].filter(([, count]) => count > 0).map(([word, count]) => `${count} ${word}`)
  if (words.length === 0) return undefined
  return `${words.join(', ')}; ${formatBytes(figures.put.bytes)} up, ${formatBytes(figures.get.bytes)} down`
}

/** A command may have had several stores, or one twice. */
export function sumOfFigures([first, ...others]: readonly StoreFigures[]): StoreFigures | undefined {
  if (!first) return undefined
  const sum = structuredClone(first)
  for (const figures of others)
    for (const verb of storeVerbs) {
      const [to, from] = [sum[verb], figures[verb]]
      Object.assign(to, {
        requests: to.requests + from.requests,
        failures: to.failures + from.failures,
        bytes: to.bytes + from.bytes,
        objects: to.objects + from.objects,
      })
    }
  return sum
}

/** As numbers by name, for the state of a session: 'requests.get', 'failures.get', 'bytes.get', 'objects.get'. */
export const flatFigures = (figures: StoreFigures): Record<string, number> =>
  Object.fromEntries(
    storeVerbs.flatMap(verb =>
      MEMBERS.filter(member => figures[verb][member] > 0).map(member => [`${member}.${verb}`, figures[verb][member]]),
    ),
  )

const MEMBERS = ['requests', 'failures', 'bytes', 'objects'] as const

/** What `flatFigures` made of them. */
export function figuresFromFlat(flat: Readonly<Record<string, number>>): StoreFigures {
  const figureOf = (verb: StoreVerb) => {
    const [requests = 0, failures = 0, bytes = 0, objects = 0] = MEMBERS.map(member => flat[`${member}.${verb}`])
    return { requests, failures, bytes, objects }
  }
  return Object.fromEntries(storeVerbs.map(verb => [verb, figureOf(verb)])) as StoreFigures
}
