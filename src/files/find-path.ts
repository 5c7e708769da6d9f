/**
 * A path inside a tree, as its own system would walk it: links on the way are followed from the tree's root and never leave it; the
 * last name is what it is, a link too, unless the path ends with a slash.
 */
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, TreeNode } from './file-tree.ts'

export interface PathFound {
  readonly isFound: true
  /** Where it lies, without links: '/usr/bin/env'. */
  readonly path: string
  readonly node: TreeNode
}

export interface PathMissing {
  readonly isFound: false
  /** The nearest directory that is there, and the name that it has not. */
  readonly parent: { readonly path: string; readonly node: TreeNode }
  readonly name: string
}

/** As Linux counts: more links than this are a loop. */
const LINKS_MAX = 40

interface Place {
  readonly name: string
  readonly node: TreeNode
}

export async function findPath(
  root: DirectoryNode,
  path: string,
  options: AbortOptions = {},
): Promise<PathFound | PathMissing> {
  const places: Place[] = []
  const names = namesOf(path)
  let links = 0
  const here = (): TreeNode => places.at(-1)?.node ?? root
  for (let name = names.shift(); name !== undefined; name = names.shift()) {
    if (name === '.') continue
    if (name === '..') {
      places.pop()
      continue
    }
    const parent = here()
    const node = parent.kind === 'directory' ? await parent.lookup(name, options) : undefined
    if (!node) return { isFound: false, parent: { path: pathOf(places), node: parent }, name }
    if (node.kind !== 'symlink' || names.length === 0) {
      places.push({ name, node })
      continue
    }
    links += 1
    if (links > LINKS_MAX)
      throw new LifeboatError('no-such-file', `${path} leads through a loop of links`, { details: { object: path } })
    const target = await node.readLink(options)
    if (target.startsWith('/')) places.length = 0
    names.unshift(...namesOf(target))
  }
  return { isFound: true, path: pathOf(places), node: here() }
}

/** A slash at the end asks for what a link leads to: '.' is looked for in it. */
function namesOf(path: string): string[] {
  const names = path.split('/').filter(name => name !== '')
  return path.endsWith('/') ? [...names, '.'] : names
}

const pathOf = (places: readonly Place[]): string => `/${places.map(({ name }) => name).join('/')}`
