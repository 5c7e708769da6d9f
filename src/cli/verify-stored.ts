/** `verify --stored`: rot is found by whoever holds the disks, without a key. With one, what is found is marked for writers. */
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { parseConfig, type RepositoryConfig } from '../crypto/config-mac.ts'
import { maintenanceContext } from '../maintenance/maintenance.ts'
import { markRot } from '../maintenance/mark-rot.ts'
import { type ScrubResult, scrubStored } from '../maintenance/scrub.ts'
import { getBounded } from '../repository/control-object.ts'
import { configKey } from '../repository/object-keys.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'
import type { Output } from './output.ts'
import { parsePercent } from './sample.ts'
import { storedSize, unknownSize } from './stored-size.ts'
import { formatBytes } from './units.ts'

export async function verifyStored(
  invocation: Invocation,
  words: readonly string[],
  flags: { readonly sample?: string; readonly dryRun?: boolean },
): Promise<number> {
  if (words.length > 0 || flags.dryRun)
    throw new LifeboatError('usage', '--stored reads packs, whichever points they belong to', {
      hint: 'leave out the points, and --dry-run; --sample 5 reads every twentieth pack',
    })
  const { output, signal, surroundings } = invocation
  const samplePercent = parsePercent(flags.sample ?? '100')
  const { store } = await invocation.openStore()
  try {
    const { encryption } = await readConfig(store, { signal })
    const bar = output.progress()
    const { packBytes } = bar.isShown ? await storedSize(store, { signal }) : unknownSize
    const result = await scrubStored({
      store,
      random: surroundings.random,
      samplePercent,
      signal,
      progress: ({ checked, bytes }) => bar.update(bytes, Math.max(bytes, packBytes), `${checked} packs`),
    }).finally(() => bar.stop())
    const { checked, bytes, unknown } = result
    const hasKey = encryption === 'none' || invocation.keySource !== undefined
    const marked = hasKey && result.problems.length > 0 ? await mark(invocation, result) : 0
    const problems = result.problems.map(({ trailer: _, ...problem }) => problem)
    output.result({ checked, bytes, problems, unknown, marked }, () => print(output, result, marked))
    return problems.length === 0 ? exitCode.done : exitCode.integrity
  } finally {
    await store[Symbol.asyncDispose]()
  }
}

/** Not authenticated, for want of a key; a mistyped URL must not look like a repository without rot. */
async function readConfig(store: ObjectStore, options: AbortOptions): Promise<RepositoryConfig> {
  const bytes = await getBounded(store, configKey, limits.controlObjectMax, options)
  if (bytes) return parseConfig(bytes).config
  throw new LifeboatError('not-a-repository', `${store.url} is not a Lifeboat repository: it has no '${configKey}'`, {
    details: { object: configKey },
    hint: 'Check the URL.',
  })
}

/** Packs that were marked. Who may not write marks none. */
async function mark(invocation: Invocation, { problems }: ScrubResult): Promise<number> {
  await using opened = await invocation.openRepository()
  const context = maintenanceContext(opened.repository, invocation.who)
  try {
    return await markRot(context, problems, { signal: invocation.signal })
  } catch (error) {
    if (isLifeboatError(error, 'store-denied')) return 0
    throw error
  }
}

function print(output: Output, { checked, bytes, problems, unknown }: ScrubResult, marked: number): void {
  for (const { kind, object, message } of problems) output.line(`${kind}: ${object}: ${message}`)
  for (const key of unknown) output.message(`unknown: ${key}`)
  output.line(`${checked} packs (${formatBytes(bytes)}) read, ${problems.length} problems`)
  if (problems.length > 0)
    output.line(
      `${marked > 0 ? 'They are marked, so that backups store anew what they held. ' : ''}` +
        'Run `lifeboat verify --all` with a key to see which points they harm.',
    )
  else output.line('This finds rot, not tampering: `lifeboat verify` with a key finds both.')
}
