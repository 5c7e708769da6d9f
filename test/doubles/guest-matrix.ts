/** Opens test disks as Lifeboat does and compares each volume with what was put on it. One line for people for each layout. */
import { fileDevice } from '../../src/block/file.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import type { GuestDisk, GuestFilesystems, Volume } from '../../src/guest/guest-filesystems.ts'
import type { DiskFile, GuestDisks } from '../guest/filesystem-images.ts'
import type { ExpectedVolume } from '../guest/guest-layouts.ts'
import { compareTree } from './tree-compare.ts'

export interface OpenDisks extends AsyncDisposable {
  readonly disks: readonly GuestDisk[]
}

export async function openDisks(files: readonly DiskFile[]): Promise<OpenDisks> {
  await using opened = new AsyncDisposableStack()
  const disks: GuestDisk[] = []
  for (const { name, path } of files)
    disks.push({ name, image: opened.use(await fileDevice(path, { readOnly: true })) })
  const kept = opened.move()
  return { disks, [Symbol.asyncDispose]: () => kept.disposeAsync() }
}

export interface LayoutReport {
  readonly line: string
  /** Files. */
  readonly compared: number
  /** Empty where all is as it was written. */
  readonly wrong: readonly string[]
}

/** `canLeave` says which volumes are for somebody else: those are only noted. */
export async function checkLayout(
  guest: GuestFilesystems,
  layout: GuestDisks,
  canLeave: (volume: Volume) => boolean = () => false,
): Promise<LayoutReport> {
  const found: Found = { wrong: [], notes: [], compared: 0 }
  await checkVolumes(guest, layout.volumes, found, canLeave)
  if (layout.key !== undefined && (await isLocked(guest, layout)))
    await checkUnlocking(guest, layout, layout.key, found)
  const { wrong, notes, compared } = found
  const said = wrong.slice(0, 5).join('; ')
  const line = `${layout.name}: ${notes.join(', ')}${wrong.length > 0 ? `; ${wrong.length} WRONG: ${said}` : ''}`
  return { line, compared, wrong }
}

interface Found {
  readonly wrong: string[]
  readonly notes: string[]
  compared: number
}

async function isLocked(guest: GuestFilesystems, layout: GuestDisks): Promise<boolean> {
  const volume = await find(guest, layout.volumes[0]!.name)
  return volume?.state === 'locked' && volume.needs === undefined
}

async function checkUnlocking(
  guest: GuestFilesystems,
  { volumes, unlocked = [] }: GuestDisks,
  key: string,
  found: Found,
): Promise<void> {
  const { wrong, notes } = found
  const name = volumes[0]!.name
  try {
    await guest.unlock(name, Buffer.from('not its key'))
    wrong.push(`${name}: a wrong key opens it`)
  } catch (error) {
    if (!isLifeboatError(error, 'wrong-guest-key')) wrong.push(`${name}: a wrong key ends with ${error}`)
  }
  try {
    await guest.unlock(name, Buffer.from(key))
    notes.push('unlocked')
    await checkVolumes(guest, unlocked, found, () => false)
  } catch (error) {
    wrong.push(`${name}: its key ends with ${error}`)
  }
}

const find = async (guest: GuestFilesystems, name: string): Promise<Volume | undefined> =>
  (await guest.volumes()).find(volume => volume.name === name)

async function checkVolumes(
  guest: GuestFilesystems,
  expected: readonly ExpectedVolume[],
  found: Found,
  canLeave: (volume: Volume) => boolean,
): Promise<void> {
  const { wrong, notes } = found
  for (const meant of expected) {
    const volume = await find(guest, meant.name)
    if (volume === undefined) {
      // What lies in a group or an array is listed by who can start it.
      if ((await guest.volumes()).some(canLeave)) notes.push(`${meant.name} left`)
      else wrong.push(`no volume ${meant.name}`)
      continue
    }
    if (canLeave(volume)) {
      notes.push(`${meant.name} left`)
      continue
    }
    const say = (what: string): void => void wrong.push(`${meant.name} ${what}`)
    if (volume.state !== meant.state) say(`is ${volume.state} (${volume.reason}), not ${meant.state}`)
    if (meant.type !== undefined && volume.type !== meant.type) say(`is '${volume.type}', not '${meant.type}'`)
    if (volume.state === 'unsupported' && !volume.reason) say('does not say why')
    if (meant.truth === undefined || meant.holds === undefined) {
      notes.push(`${meant.name} ${volume.state}`)
      continue
    }
    try {
      const tree = await guest.open(meant.name)
      const { compared, bytes, differences } = await compareTree(tree.root, meant.truth, meant.holds)
      notes.push(`${meant.name} ${compared} files of ${(bytes / 1e6).toFixed(1)} MB equal`)
      found.compared += compared
      for (const difference of differences) say(difference)
    } catch (error) {
      say(`cannot be opened: ${error}`)
    }
  }
}

/** What nobody here can read is said to be so, by its error or by its volume, and what is beside it is read. */
export async function checkDeduplicated(guest: GuestFilesystems): Promise<string> {
  const { root } = await guest.open('dedup-whole')
  const plain = await root.lookup('plain.txt')
  if (plain?.kind !== 'file') return 'plain.txt is not there'
  await using reader = await plain.open()
  const text = Buffer.alloc(reader.size)
  await reader.readInto(text, 0)
  if (text.toString() !== 'plain\n') return 'plain.txt is not what it was'
  const gone = await root.lookup('deduplicated.txt')
  if (gone === undefined) return 'deduplicated.txt is not listed'
  if (gone.kind === 'file')
    try {
      await using contents = await gone.open()
      await contents.readInto(Buffer.alloc(contents.size), 0)
      return 'deduplicated.txt is read as if it were whole'
    } catch (error) {
      return /dedup/i.test(`${error}`) ? '' : `deduplicated.txt ends with ${error}`
    }
  const reason = (await find(guest, 'dedup-whole'))?.reason ?? 'nothing'
  return /dedup/i.test(reason) ? '' : `deduplicated.txt is a ${gone.kind}, and its volume says ${reason}`
}
