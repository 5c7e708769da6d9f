/** The tree of all points over a repository in memory, without a kernel: time, requests and troubles are in the test's hands. */
import assert from 'node:assert/strict'
import { ChunkCache } from '../../src/cache/chunk-cache.ts'
import { MiB } from '../../src/core/limits.ts'
import type { AbortOptions } from '../../src/core/scope.ts'
import type { DirectoryNode, FileNode, TreeNode } from '../../src/files/file-tree.ts'
import { findPath } from '../../src/files/find-path.ts'
import type { OpenGuest } from '../../src/guest/guest-filesystems.ts'
import { pointsTree } from '../../src/mount/points-tree.ts'
import { type Interceptor, intercepted, type StoreRequest } from './intercepted-store.ts'
import { type ManualClock, manualClock } from './manual-clock.ts'
import { type RepositoryFixture, repositoryFixture } from './repository-fixture.ts'

export interface MountedPoints extends AsyncDisposable {
  readonly root: DirectoryNode
  readonly clock: ManualClock
  readonly troubles: readonly string[]
  /** Requests of the mount since this was asked for the last time. */
  requests(): readonly StoreRequest[]
  node(path: string, options?: AbortOptions): Promise<TreeNode | undefined>
  file(path: string): Promise<FileNode>
  /** Names in a folder. */
  names(path: string): Promise<readonly string[]>
  text(path: string): Promise<string>
}

export const mountedFixture = (): Promise<RepositoryFixture> => repositoryFixture({ seed: 'mount' })

export async function mountedPoints(
  fixture: RepositoryFixture,
  { openGuest, before }: { readonly openGuest?: OpenGuest } & Interceptor = {},
): Promise<MountedPoints> {
  const clock = manualClock()
  let seen: StoreRequest[] = []
  const store = intercepted(fixture.store, {
    async before(request, options) {
      seen.push(request)
      await before?.(request, options)
    },
  })
  const troubles: string[] = []
  const tree = await pointsTree({
    repository: await fixture.open(store),
    cache: new ChunkCache({ maxBytes: 16 * MiB }),
    clock,
    owner: { uid: 1000, gid: 100 },
    openGuest,
    onTrouble: message => troubles.push(message),
  })
  const { root } = tree
  const node = async (path: string, options?: AbortOptions) => {
    const found = await findPath(root, path, options)
    return found.isFound ? found.node : undefined
  }
  const file = async (path: string) => {
    const found = await node(path)
    assert.ok(found?.kind === 'file', `${path} is ${found?.kind}`)
    return found
  }
  return {
    root,
    clock,
    troubles,
    requests() {
      const since = seen
      seen = []
      return since
    },
    node,
    file,
    async names(path) {
      const found = await node(path)
      assert.ok(found?.kind === 'directory', `${path} is ${found?.kind}`)
      return (await Array.fromAsync(found.list())).flat().map(({ name }) => name)
    },
    async text(path) {
      return Buffer.from(await contentOf(await file(path))).toString()
    },
    [Symbol.asyncDispose]: () => tree[Symbol.asyncDispose](),
  }
}

export async function contentOf(file: FileNode): Promise<Uint8Array> {
  await using reader = await file.open()
  const bytes = new Uint8Array(reader.size)
  await reader.readInto(bytes, 0)
  return bytes
}
