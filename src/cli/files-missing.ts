/** A path that is not there: how far it is, and what it may have meant. */
import { LifeboatError } from '../core/errors.ts'
import { nearNames } from '../core/near-names.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PathMissing } from '../files/find-path.ts'
import { shownName } from './files-text.ts'

/** Names of a directory that are compared, and how many a message says. */
const COMPARED_MAX = 10_000
const NAMED = 5

export async function noSuchFile(
  path: string,
  { parent, name }: PathMissing,
  volume: string,
  options: AbortOptions,
): Promise<LifeboatError> {
  const details = { object: path, volume, parent: parent.path }
  const missing = `${volume} has no ${shownName(path)}`
  if (parent.node.kind !== 'directory')
    return new LifeboatError('no-such-file', `${missing}: ${shownName(parent.path)} is no directory`, { details })
  const names: string[] = []
  for await (const batch of parent.node.list(options)) {
    for (const entry of batch) names.push(entry.name)
    if (names.length >= COMPARED_MAX) break
  }
  const near = nearNames(name, names).slice(0, NAMED).map(shownName)
  const some = names.slice(0, NAMED).map(shownName)
  const known = near.length > 0 ? `Did you mean ${near.join(', ')}?` : `It has ${some.join(', ') || 'nothing'}.`
  return new LifeboatError('no-such-file', `${missing}: ${shownName(parent.path)} has no ${shownName(name)}`, {
    details,
    hint: `${known} \`lifeboat files ls\` shows a directory.`,
  })
}
