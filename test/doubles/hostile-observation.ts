/** Restores all that a hostile disk shows into a folder, as a person in a hurry would, and looks at what came of it. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { lstat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isLifeboatError } from '../../src/core/errors.ts'
import { copyOut } from '../../src/files/copy-out.ts'
import type { DirectoryNode } from '../../src/files/file-tree.ts'
import type { GuestFilesystems, Volume } from '../../src/guest/guest-filesystems.ts'
import type { HostileDisk } from '../guest/hostile-images.ts'

export interface Observation {
  /** For people: what was injected and what was seen. */
  readonly line: string
  /** What must not have happened. */
  readonly wrong: readonly string[]
}

/** Errors that tell a person what is wrong with a guest's disk. Any other is a fault of ours. */
const TOLD = [
  'guest-filesystem',
  'guest-lost',
  'guest-unsupported',
  'guest-locked',
  'wrong-guest-key',
  'no-such-volume',
]
const ESCAPED = ['/tmp/escaped', '/escaped']

interface Seen {
  opened: number
  files: number
  problems: number
  readonly told: string[]
  readonly wrong: string[]
}

export async function observe(
  guest: GuestFilesystems,
  image: HostileDisk,
  canLeave: (volume: Volume) => boolean = () => false,
): Promise<Observation> {
  const startedAt = performance.now()
  const seen: Seen = { opened: 0, files: 0, problems: 0, told: [], wrong: [] }
  const place = mkdtempSync(join(tmpdir(), 'lifeboat-hostile-'))
  let left = 0
  try {
    const volumes = await guest.volumes()
    for (const volume of volumes.filter(volume => isOf(image, volume))) {
      if (canLeave(volume)) left += 1
      else await tryVolume(guest, image, volume, place, seen)
    }
  } catch (error) {
    tell(seen, 'its volumes', error)
  } finally {
    rmSync(place, { recursive: true, force: true })
  }
  if (left === 0) judge(image, seen)
  const took = ((performance.now() - startedAt) / 1000).toFixed(1)
  const told = seen.told.length > 0 ? `; told: ${seen.told.slice(0, 3).join('; ')}` : ''
  const counts = `${seen.opened} opened, ${seen.files} restored, ${seen.problems} problems${left > 0 ? `, ${left} left` : ''}`
  const line = `${image.name} (${image.injected}): ${counts} in ${took} s${told}`
  return { line: seen.wrong.length > 0 ? `${line}; WRONG: ${seen.wrong.join('; ')}` : line, wrong: seen.wrong }
}

/** A group's volumes have no disk of their own: lvm-absurd's is named after its group. */
const isOf = ({ name }: HostileDisk, volume: Volume): boolean =>
  volume.disk === name || volume.name.startsWith(`${name}-`) || (name === 'lvm-absurd' && /^big-vg/.test(volume.name))

async function tryVolume(
  guest: GuestFilesystems,
  image: HostileDisk,
  volume: Volume,
  place: string,
  seen: Seen,
): Promise<void> {
  if (volume.state === 'locked' && image.key !== undefined)
    await guest.unlock(volume.name, Buffer.from(image.key)).then(
      () => seen.wrong.push(`${volume.name} was unlocked`),
      error => tell(seen, volume.name, error),
    )
  if (volume.state === 'unsupported') seen.told.push(`${volume.name}: ${volume.reason}`)
  if (volume.state !== 'readable') return
  try {
    const tree = await guest.open(volume.name)
    seen.opened += 1
    await restore(tree.root, join(place, volume.name), image, seen)
  } catch (error) {
    tell(seen, volume.name, error)
  }
}

async function restore(root: DirectoryNode, place: string, image: HostileDisk, seen: Seen): Promise<void> {
  const target = join(place, 'target')
  mkdirSync(target, { recursive: true })
  mkdirSync(join(place, 'outside'))
  writeFileSync(join(place, 'outside', 'canary'), 'as it was')
  const copied = await copyOut([{ path: [], node: root }], target, { resumeKey: image.name })
  seen.files += copied.files + copied.directories + copied.others
  seen.problems += copied.problems.count
  seen.told.push(...copied.problems.first.slice(0, 2).map(({ path, reason }) => `${path.slice(0, 60)}: ${reason}`))
  if (`${readdirSync(place).sort()}` !== 'outside,target')
    seen.wrong.push(`beside the target are ${readdirSync(place)}`)
  if (`${readdirSync(join(place, 'outside'))}` !== 'canary') seen.wrong.push('something came through a symlink')
  await checkInside(Buffer.from(target), seen, 0)
  if (image.good !== undefined && !existsSync(join(target, image.good)))
    seen.wrong.push(`${image.good}, which is whole, was not restored`)
}

/** No device, nothing that runs as another user, nothing that is not below the target. Not to the bottom of 10,000 folders. */
async function checkInside(folder: Buffer, seen: Seen, depth: number): Promise<void> {
  if (depth > 20) return
  for (const name of readdirSync(folder, { encoding: 'buffer' })) {
    const path = Buffer.concat([folder, Buffer.from('/'), name])
    const stat = await lstat(path)
    if (stat.isBlockDevice() || stat.isCharacterDevice()) seen.wrong.push(`${path} is a device`)
    if (stat.isFile() && (stat.mode & 0o6000) !== 0) seen.wrong.push(`${path} is set-user-id`)
    if (stat.isDirectory()) await checkInside(path, seen, depth + 1)
  }
}

function tell(seen: Seen, where: string, error: unknown): void {
  if (isLifeboatError(error) && TOLD.includes(error.code))
    seen.told.push(`${where}: ${error.code}, ${error.message.slice(0, 160)}`)
  else seen.wrong.push(`${where}: ${error instanceof Error ? error.stack : error}`)
}

function judge(image: HostileDisk, { opened, problems, told, wrong }: Seen): void {
  for (const path of ESCAPED) if (existsSync(path)) wrong.push(`${path} exists`)
  if (image.seen === 'refused' && opened > 0) wrong.push('it was opened')
  if (image.key !== undefined && told.length === 0) wrong.push('nobody was told why it stays locked')
  if (image.seen === 'problem' && problems === 0) wrong.push('nobody was told')
  if (image.good !== undefined && opened === 0) wrong.push('it could not be opened, though most of it is whole')
}
