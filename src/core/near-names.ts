/** Names that a mistyped one may have meant. */

/** The nearest first; those that begin with it count as near. */
export const nearNames = (text: string, known: readonly string[]): readonly string[] =>
  known
    .map(name => ({ name, distance: editDistance(text, name) }))
    .filter(({ name, distance }) => isNear(name, distance) || name.startsWith(text))
    .sort((a, b) => a.distance - b.distance)
    .map(({ name }) => name)

/** Two slips of the fingers, more in a long name, and never another name altogether. */
const isNear = (name: string, distance: number): boolean =>
  distance <= Math.max(2, Math.ceil(name.length / 3)) && distance < name.length

/** Levenshtein; names are short, and longer ones are cut. */
function editDistance(a: string, b: string): number {
  const [left, right] = [a.slice(0, 64).toLowerCase(), b.slice(0, 64).toLowerCase()]
  let row = Array.from({ length: right.length + 1 }, (_, n) => n)
  for (let i = 1; i <= left.length; i++) {
    const next = [i]
    for (let j = 1; j <= right.length; j++)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (left[i - 1] === right[j - 1] ? 0 : 1)))
    row = next
  }
  return row[right.length]!
}
