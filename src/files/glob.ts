/**
 * Patterns of paths: `*` and `?` within a name, `[a-z]` and `[!a-z]`, `**` for any number of directories, `{a,b}`, and `\` before what
 * is meant literally. A leading dot is nothing special: a restore that left out hidden files would not be one. Matching takes time
 * of at most the pattern's length times the path's, whatever they are.
 */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'

export interface Glob {
  matches(path: readonly string[]): boolean
  /** Whether something below this directory may match: where not, it need not be listed. */
  mayMatchBelow(path: readonly string[]): boolean
}

type Token =
  | { readonly kind: 'any' }
  | { readonly kind: 'one' }
  | { readonly kind: 'literal'; readonly character: string }
  | { readonly kind: 'class'; readonly isNegated: boolean; readonly ranges: readonly (readonly [number, number])[] }

/** One name, or '**'. */
type Segment = readonly Token[] | '**'

interface GlobOptions {
  readonly ignoreCase?: boolean
}

/** Slashes at the ends mean nothing. Throws 'usage'. */
export function glob(pattern: string, { ignoreCase = false }: GlobOptions = {}): Glob {
  if (pattern.length > limits.globLengthMax)
    throw refused(pattern, `is longer than ${limits.globLengthMax} characters`, 'Use a shorter one.')
  const fold = (text: string): string => (ignoreCase ? text.toLowerCase() : text)
  const alternatives = expandBraces(pattern).map(each => segmentsOf(fold(each)))
  const statesOf = (segments: readonly Segment[], path: readonly string[]): Set<number> => {
    let states = withSkips(segments, [0])
    for (const name of path) states = step(segments, states, [...fold(name)])
    return states
  }
  return {
    matches: path => alternatives.some(segments => statesOf(segments, path).has(segments.length)),
    mayMatchBelow: path =>
      alternatives.some(segments => [...statesOf(segments, path)].some(state => state < segments.length)),
  }
}

/** Whether there is anything in it to match: else it is a path. */
export const isPattern = (text: string): boolean => /[*?[{\\]/.test(text)

/** '**' may stand for no directory at all. */
function withSkips(segments: readonly Segment[], states: Iterable<number>): Set<number> {
  const reached = new Set<number>()
  for (let state of states) {
    reached.add(state)
    while (segments[state] === '**') reached.add(++state)
  }
  return reached
}

function step(segments: readonly Segment[], states: ReadonlySet<number>, name: readonly string[]): Set<number> {
  const next: number[] = []
  for (const state of states) {
    const segment = segments[state]
    if (segment === '**') next.push(state)
    else if (segment !== undefined && matchesName(segment, name)) next.push(state + 1)
  }
  return withSkips(segments, next)
}

/** Only the last '*' is ever tried again: what an earlier one could give, it can take as well. */
function matchesName(tokens: readonly Token[], name: readonly string[]): boolean {
  let token = 0
  let at = 0
  let star = -1
  let starAt = 0
  while (at < name.length) {
    const wanted = tokens[token]
    if (wanted?.kind === 'any') {
      star = token++
      starAt = at
    } else if (wanted !== undefined && matchesCharacter(wanted, name[at]!)) {
      token += 1
      at += 1
    } else if (star >= 0) {
      token = star + 1
      at = ++starAt
    } else return false
  }
  while (tokens[token]?.kind === 'any') token += 1
  return token === tokens.length
}

function matchesCharacter(token: Token, character: string): boolean {
  if (token.kind === 'literal') return token.character === character
  if (token.kind !== 'class') return true
  const code = character.codePointAt(0)!
  return token.ranges.some(([from, to]) => code >= from && code <= to) !== token.isNegated
}

function segmentsOf(pattern: string): Segment[] {
  const segments = pattern.split('/').filter(text => text !== '')
  return segments.map(text => (text === '**' ? '**' : tokensOf([...text])))
}

function tokensOf(characters: readonly string[]): Token[] {
  const tokens: Token[] = []
  for (let at = 0; at < characters.length; at++) {
    const character = characters[at]!
    const set = character === '[' ? classAt(characters, at) : undefined
    if (set !== undefined) {
      tokens.push(set.token)
      at = set.end
    } else if (character === '*') {
      if (tokens.at(-1)?.kind !== 'any') tokens.push({ kind: 'any' })
    } else if (character === '?') tokens.push({ kind: 'one' })
    else if (character === '\\' && at + 1 < characters.length)
      tokens.push({ kind: 'literal', character: characters[++at]! })
    else tokens.push({ kind: 'literal', character })
  }
  return tokens
}

/** '[' without its ']' is a bracket. */
function classAt(characters: readonly string[], start: number): { token: Token; end: number } | undefined {
  let at = start + 1
  const isNegated = characters[at] === '!' || characters[at] === '^'
  if (isNegated) at += 1
  const ranges: [number, number][] = []
  for (const first = at; at < characters.length; at++) {
    if (characters[at] === ']' && at > first) return { token: { kind: 'class', isNegated, ranges }, end: at }
    if (characters[at] === '\\' && at + 1 < characters.length) at += 1
    const from = characters[at]!.codePointAt(0)!
    const isRange = characters[at + 1] === '-' && characters[at + 2] !== undefined && characters[at + 2] !== ']'
    const to = isRange ? characters[at + 2]!.codePointAt(0)! : from
    if (isRange) at += 2
    ranges.push([from, to])
  }
  return undefined
}

/** Braces without a comma, or that do not close, are braces. */
function expandBraces(pattern: string): string[] {
  const done: string[] = []
  const pending = [pattern]
  for (let text = pending.pop(); text !== undefined; text = pending.pop()) {
    const braces = firstBraces(text)
    if (braces === undefined) done.push(text)
    else {
      const { start, end, parts } = braces
      for (const part of parts.toReversed()) pending.push(text.slice(0, start) + part + text.slice(end + 1))
    }
    if (done.length + pending.length > limits.globAlternativesMax)
      throw refused(pattern, `stands for more than ${limits.globAlternativesMax} patterns`, 'Use fewer braces.')
  }
  return done
}

/** The first that have a comma. */
function firstBraces(text: string): { start: number; end: number; parts: string[] } | undefined {
  const open: { start: number; commas: number[] }[] = []
  for (let at = 0; at < text.length; at++) {
    const character = text[at]
    if (character === '\\') at += 1
    else if (character === '{') open.push({ start: at, commas: [] })
    else if (character === ',') open.at(-1)?.commas.push(at)
    else if (character === '}') {
      const braces = open.pop()
      if (braces === undefined || braces.commas.length === 0) continue
      const cuts = [braces.start, ...braces.commas, at]
      return {
        start: braces.start,
        end: at,
        parts: cuts.slice(1).map((cut, index) => text.slice(cuts[index]! + 1, cut)),
      }
    }
  }
  return undefined
}

const refused = (pattern: string, what: string, hint: string): LifeboatError =>
  new LifeboatError('usage', `The pattern '${pattern.slice(0, 80)}' ${what}`, { hint })
