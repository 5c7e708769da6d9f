/** A repository whose listings are compared with what this host has seen before; no request is added while nothing is missing. */
import type { AbortOptions } from '../core/scope.ts'
import { readAuditLog } from '../maintenance/audit-log.ts'
import { pointKey } from '../repository/object-keys.ts'
import type { OpenedRepository } from '../repository/open.ts'
import type { PointSummary, PointWriter } from '../repository/repository.ts'
import type { ForgottenSince, SeenPoints } from './seen-points.ts'

/** More than ten years of nightly pruning; what lies before is not asked for. */
const ENTRIES_READ = 10_000

export const forgottenByAudit =
  ({ reading }: Pick<OpenedRepository, 'reading'>): ForgottenSince =>
  async (since, options) => {
    const { entries } = await readAuditLog(reading, { since, limit: ENTRIES_READ, ...options })
    const forgotten = new Set<string>()
    for (const { action, details } of entries)
      if (action === 'forget' && Array.isArray(details.points))
        for (const key of details.points) if (typeof key === 'string') forgotten.add(key)
    return forgotten
  }

export function watched(
  repository: OpenedRepository,
  seen: SeenPoints,
  warn: (message: string) => void,
): OpenedRepository {
  const told = new Set<string>()
  return {
    ...repository,
    async points(request: { vm?: string; all?: boolean } & AbortOptions = {}) {
      const listed = await repository.points({ ...request, all: true })
      const missing = await seen.listed(listed, request.vm, { signal: request.signal })
      if (missing.length > 0) warn(alarm(missing))
      for (const message of voidPoints(listed))
        if (!told.has(message)) {
          told.add(message)
          warn(message)
        }
      return request.all ? listed : listed.filter(({ state }) => state === 'committed')
    },
    async manifest(point, options) {
      const manifest = await repository.manifest(point, options)
      if (point.state === 'committed') seen.proven(point.key)
      return manifest
    },
    async openPoint(point, options) {
      const opened = await repository.openPoint(point, options)
      seen.proven(point.key)
      await seen.save()
      return opened
    },
    async beginPoint(request) {
      return remembering(await repository.beginPoint(request), seen)
    },
  }
}

const NAMED = 5

const alarm = (missing: readonly string[]): string =>
  `rolled back: ${missing.length} points that this host has seen are gone, and nobody forgot them: ` +
  `${missing.slice(0, NAMED).join(', ')}${missing.length > NAMED ? ', ...' : ''}. ` +
  'Somebody removed them, or put an old copy of the repository in place: keep what is left, and look for a copy of the rest; ' +
  '`lifeboat verify --all --accept-loss` ends this alarm'

/**
 * Whoever made such a point may have been told that it is committed: a collector that died just after its fence has taken it
 * away. One that was given up or forgotten is marked as that, and is not among them.
 */
const voidPoints = (listed: readonly PointSummary[]): readonly string[] =>
  listed
    .filter(({ state }) => state === 'void')
    .map(
      ({ vm, id }) =>
        `${vm}@${id} DOES NOT COUNT: its backup was taken for dead just as it ended. Unless it is brought back within a month it is removed: \`lifeboat verify --adopt ${vm}@${id}\``,
    )

function remembering(writer: PointWriter, seen: SeenPoints): PointWriter {
  return {
    point: writer.point,
    bases: writer.bases,
    get healed() {
      return writer.healed
    },
    disk: request => writer.disk(request),
    async commit(details, options) {
      const manifest = await writer.commit(details, options)
      seen.proven(pointKey(manifest.vm, manifest.takenAt, manifest.point))
      await seen.save()
      return manifest
    },
    [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
  }
}
