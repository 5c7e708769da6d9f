import { isIntegrityError, isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { shreddedDomains } from '../maintenance/destroy-keys.ts'
import { manifestLock } from '../maintenance/lock-status.ts'
import { listDamage } from '../repository/damage-marks.ts'
import { type HoldList, listHolds } from '../repository/holds.ts'
import { suspectPoints } from '../repository/mark-damaged.ts'
import type { OpenedRepository } from '../repository/open.ts'
import type { Manifest, PointSummary } from '../repository/repository.ts'
import { exitCode } from './exit-code.ts'
import { SUSPECT_HINT } from './suspect-points.ts'
import { formatBytes } from './units.ts'
import { verb } from './verb.ts'
import { verifiedPoints } from './verified-points.ts'

export const pointsCommand = verb<{ readonly all?: boolean }>({
  syntax: 'points [vm]',
  isQuery: true,
  description: 'List recovery points.',
  examples: ['--repo /srv/backup points', '--repo /srv/backup points web1 --json'],
  options: command => command.option('--all', 'void and forgotten points too'),
  async run(invocation, [vm], { all = false }) {
    const { output, signal } = invocation
    await using opened = await invocation.openRepository()
    const { repository } = opened
    const known = await repository.points({ vm, all: true, signal })
    if (vm !== undefined && known.length === 0) throw noPointsOf(vm)
    const summaries = known.filter(({ state }) => all || state === 'committed')
    const { manifests, failures } = await readManifests(repository, summaries, { signal })
    const held = await listHolds(repository.reading.control, { signal })
    const verified = await verifiedPoints(invocation.stateDir, repository.id)
    const shredded = await shreddedDomains(repository.reading, ownDomains(repository, manifests), { signal })
    const suspects = suspectPoints(await listDamage(repository.reading.control, { signal }))
    const locks = await manifestLocks(repository, summaries, { signal })
    const points = summaries
      .filter(({ id }) => manifests.has(id) || failures.has(id))
      .map(point => listed(point, { manifest: manifests.get(point.id), held, verified, suspects, shredded, locks }))
    output.result({ points }, () =>
      points.length === 0
        ? output.line(vm ? `no points of ${vm}` : 'no points yet: make one with lifeboat backup')
        : output.table(
            [
              { title: 'POINT' },
              { title: 'VM' },
              { title: 'TAKEN AT' },
              { title: 'KIND' },
              { title: 'CONSISTENCY' },
              { title: 'SIZE', align: 'right' },
              { title: 'STORED', align: 'right' },
              { title: 'HOLDS', align: 'right' },
              { title: 'VERIFIED AT' },
              ...(locks ? [{ title: 'LOCKED UNTIL' }] : []),
              { title: 'STATE' },
            ],
            points.map(point => [
              point.id,
              point.vm,
              point.takenAt.toISOString().replace(/\.\d+Z$/, 'Z'),
              point.kind ?? '',
              point.consistency ?? '',
              ...(point.kind ? [formatBytes(point.size), formatBytes(point.bytesStored)] : ['', '']),
              point.holds.length === 0 ? '' : String(point.holds.length),
              point.verifiedAt?.replace(/\.\d+Z$/, 'Z') ?? '',
              ...(locks ? [point.lockedUntil?.toISOString().replace(/\.\d+Z$/, 'Z') ?? 'not locked'] : []),
              point.state === 'committed' ? '' : point.state,
            ]),
          ),
    )
    for (const error of failures.values())
      output.warning(`${messageOf(error)}: this point is lost, the others are not harmed`)
    if (points.some(({ state }) => state === 'suspect'))
      output.warning(`verify found damage in what is suspect: ${SUSPECT_HINT}`)
    const hidden = summaries.filter(({ isHidden }) => isHidden)
    for (const { vm: name, id, key } of hidden)
      output.warning(
        `SOMEBODY HAS DELETED ${key}: its lock kept it, ${name}@${id} still restores; \`lifeboat lock repair\` uncovers it`,
      )
    for (const key of held.damaged) output.warning(`${key} does not authenticate: which point it holds is not known`)
    return failures.size + held.damaged.length + hidden.length === 0 ? exitCode.done : exitCode.integrity
  },
})

interface Manifests {
  readonly manifests: ReadonlyMap<string, Manifest>
  /** Of points whose manifest is damaged. */
  readonly failures: ReadonlyMap<string, LifeboatError>
}

/** A listing over S3 is one GET a point: 16 at a time make it a matter of seconds for thousands. */
async function readManifests(
  repository: OpenedRepository,
  summaries: readonly PointSummary[],
  options: AbortOptions,
): Promise<Manifests> {
  const manifests = new Map<string, Manifest>()
  const failures = new Map<string, LifeboatError>()
  await forEachLimited(
    summaries,
    limits.getsInFlight,
    async (point, signal) => {
      try {
        manifests.set(point.id, await repository.manifest(point, { signal }))
      } catch (error) {
        if (isIntegrityError(error)) failures.set(point.id, error)
        // One that was removed since it was listed is listed no more.
        else if (!isLifeboatError(error, 'no-such-point')) throw error
      }
    },
    options,
  )
  return { manifests, failures }
}

interface KnownOfPoint {
  readonly manifest: Manifest | undefined
  readonly held: HoldList
  readonly verified: ReadonlyMap<string, string>
  readonly suspects: ReadonlySet<string>
  /** Domains whose keys are gone. */
  readonly shredded: ReadonlySet<string>
  /** Of manifests; absent where nothing is locked. */
  readonly locks: ReadonlyMap<string, Date> | undefined
}

/** One request a point, and only where the repository promises locks. */
async function manifestLocks(
  { reading }: OpenedRepository,
  points: readonly PointSummary[],
  options: AbortOptions,
): Promise<ReadonlyMap<string, Date> | undefined> {
  if (!reading.lock) return undefined
  const locks = new Map<string, Date>()
  const ask = async (point: PointSummary, signal: AbortSignal) => {
    const until = await manifestLock(reading.store, point, { signal })
    if (until) locks.set(point.key, until)
  }
  await forEachLimited(points, limits.getsInFlight, ask, options)
  return locks
}

function stateOf({ id, state }: PointSummary, { manifest, suspects, shredded }: KnownOfPoint) {
  if (!manifest) return 'damaged'
  // Whether it is forgotten as well makes no difference: nobody can read it.
  if (shredded.has(manifest.domain)) return 'shredded'
  return state === 'committed' && suspects.has(id) ? 'suspect' : state
}

/** Others' keys cannot be destroyed, so that nothing is asked about theirs. */
const ownDomains = ({ domain }: OpenedRepository, manifests: ReadonlyMap<string, Manifest>) =>
  new Set([...manifests.values()].map(manifest => manifest.domain).filter(own => own !== domain))

function listed(point: PointSummary, known: KnownOfPoint) {
  const { id, vm, takenAt } = point
  const { manifest, held, verified, locks } = known
  const disks = manifest?.disks ?? []
  return {
    id,
    vm,
    takenAt,
    kind: manifest?.kind,
    consistency: manifest?.consistency,
    size: disks.reduce((sum, disk) => sum + disk.size, 0),
    bytesStored: disks.reduce((sum, disk) => sum + disk.bytesStored, 0),
    holds: held.holds.filter(hold => hold.point === id).map(({ id, who, reason }) => ({ id, who, reason })),
    verifiedAt: verified.get(id) ?? null,
    lockedUntil: locks?.get(point.key) ?? null,
    isHidden: point.isHidden ?? false,
    state: stateOf(point, known),
  }
}

const noPointsOf = (vm: string): LifeboatError =>
  new LifeboatError('no-such-vm', `there is no point of a VM '${vm.slice(0, 255)}'`, {
    details: { vm },
    hint: '`lifeboat points` lists those of all VMs',
  })
