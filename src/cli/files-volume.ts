/** Which volume of a point a path is of: the one that was named, the only one, or the only one that holds the path. */
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { forEachLimited } from '../core/scope.ts'
import type { FileTree } from '../files/file-tree.ts'
import { findPath, type PathFound } from '../files/find-path.ts'
import type { Volume } from '../guest/guest-filesystems.ts'
import { type ChosenFilesystems, noSuchVolume, unreadable } from '../guest/open-guest.ts'
import { splitDisk } from '../repository/point-ref.ts'
import { noSuchFile } from './files-missing.ts'

export interface OpenedVolume {
  readonly volume: Volume
  readonly tree: FileTree
}

export interface FoundPlace extends OpenedVolume, PathFound {}

export interface VolumeRequest extends AbortOptions {
  readonly guest: ChosenFilesystems
  /** Of the point. */
  readonly disks: readonly string[]
  /** What stands between the point and the path: 'vda', 'vda/p2', 'vg-root', or nothing. */
  readonly words?: string
  /** Told where a volume that may hold the path as well could not be looked into. */
  readonly onSkipped?: (volume: string, why: string) => void
}

/** Throws 'no-such-file', 'no-such-volume', 'ambiguous', and why the only volume cannot be read. */
export async function findPlace(request: VolumeRequest, path: string): Promise<FoundPlace> {
  const candidates = await candidatesOf(request)
  const [only] = candidates
  if (only && candidates.length === 1) {
    const tree = await openVolume(request, only)
    const found = await findPath(tree.root, path, request)
    if (!found.isFound) throw await noSuchFile(path, found, only.name, request)
    return { volume: only, tree, ...found }
  }
  return await holderOf(request, candidates, path)
}

/** The volumes that the words may mean; the appliance is asked only where the quick list leaves one of them open. */
async function candidatesOf({ guest, disks, words, signal }: VolumeRequest): Promise<readonly Volume[]> {
  const quick = (await guest.quickVolumes({ signal })) ?? []
  const known = volumesMeant(quick, disks, words)
  if (known.length > 0 && !known.some(({ needs }) => needs !== undefined)) return known
  const volumes = await guest.volumes({ signal })
  const meant = volumesMeant(volumes, disks, words).filter(
    ({ state, name }) => state !== 'nothing' || isNamed(name, words),
  )
  if (meant.length > 0) return meant
  // A name that fits no disk either is said so.
  if (words !== undefined && !volumes.some(({ name }) => name.endsWith(`-${words}`))) splitDisk(words, disks)
  throw noSuchVolume(words ?? '', volumes)
}

const isNamed = (name: string, words: string | undefined): boolean =>
  words !== undefined && (name === words || name === words.replaceAll('/', '-') || words.endsWith(`/${name}`))

function volumesMeant(
  volumes: readonly Volume[],
  disks: readonly string[],
  words: string | undefined,
): readonly Volume[] {
  const withFiles = (volume: Volume) => volume.state !== 'nothing' || volume.needs !== undefined
  if (words === undefined) return volumes.filter(withFiles)
  const named = volumes.filter(({ name }) => name === words)
  if (named.length > 0) return named
  if (disks.includes(words)) return volumes.filter(volume => volume.disk === words && withFiles(volume))
  const disk = disks.filter(name => words.startsWith(`${name}/`)).sort((a, b) => b.length - a.length)[0]
  if (disk === undefined) return []
  const rest = words.slice(disk.length + 1)
  return volumes.filter(volume => volume.name === `${disk}-${rest}` || volume.name === rest)
}

async function openVolume({ guest, signal }: VolumeRequest, volume: Volume): Promise<FileTree> {
  if (volume.state !== 'readable') throw unreadable(volume)
  return await guest.open(volume.name, { signal })
}

/** All of them are looked into: which one is meant must not hang on what this host can read quickly. */
async function holderOf(request: VolumeRequest, candidates: readonly Volume[], path: string): Promise<FoundPlace> {
  const holders: FoundPlace[] = []
  const skipped = new Map<string, LifeboatError>()
  const look = async (volume: Volume, signal: AbortSignal) => {
    try {
      const tree = await openVolume({ ...request, signal }, volume)
      const found = await findPath(tree.root, path, { signal })
      if (found.isFound) holders.push({ volume, tree, ...found })
    } catch (error) {
      if (!isLifeboatError(error) || !LEFT_OUT.has(error.code)) throw error
      skipped.set(volume.name, error)
    }
  }
  await forEachLimited(candidates, limits.volumesLookedInto, look, request)
  const [holder] = holders
  if (!holder) throw heldByNone(candidates, skipped, path)
  if (holders.length > 1)
    throw ambiguous(
      holders.map(({ volume }) => volume),
      path,
    )
  for (const [name, why] of skipped) request.onSkipped?.(name, why.message)
  return holder
}

/** What says something of one volume; anything else, a store that is away for one, ends the search. */
const LEFT_OUT: ReadonlySet<string> = new Set([
  'guest-locked',
  'guest-unsupported',
  'guest-filesystem',
  'wrong-guest-key',
  'no-such-file',
])

/** It may lie where nobody could look: then it is not absent, but not known. */
function heldByNone(
  candidates: readonly Volume[],
  skipped: ReadonlyMap<string, LifeboatError>,
  path: string,
): LifeboatError {
  const looked = candidates.filter(({ name }) => !skipped.has(name)).map(({ name }) => name)
  const [unread] = skipped.values()
  const where = [
    ...(looked.length > 0 ? [`not in ${looked.join(', ')}`] : []),
    ...[...skipped.values()].map(({ message }) => message),
  ]
  return new LifeboatError(unread?.code ?? 'no-such-file', `${path} was not found: ${where.join('; ')}`, {
    details: { object: path, volumes: candidates.map(({ name }) => name) },
    hint:
      unread?.details.hint ??
      'Name the volume (POINT/DISK/p2:/path) to be told how far the path is; `lifeboat files ls POINT` lists them.',
  })
}

const ambiguous = (holders: readonly Volume[], path: string): LifeboatError =>
  new LifeboatError('ambiguous', `${path} is in ${holders.length} volumes: ${holders.map(described).join(', ')}`, {
    details: { volumes: holders.map(({ name }) => name) },
    hint: `Say which: POINT/${wordsOf(holders[0]!)}:${path}`,
  })

const described = ({ name, type, label }: Volume): string =>
  `${name} (${[type, label].filter(Boolean).join(' ') || 'unknown'})`

/** 'vda/p2', as people name it. */
const wordsOf = ({ name, disk }: Volume): string =>
  disk !== undefined && name.startsWith(`${disk}-`) ? `${disk}/${name.slice(disk.length + 1)}` : name
