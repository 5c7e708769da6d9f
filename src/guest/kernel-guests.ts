/**
 * What `--trust-guest` allows: this host's kernel mounts the filesystems of guests. The disks are files of a mount of our own, loop
 * devices read those, and an agent in a mount namespace of its own mounts and reads; volumes that it leaves alone say that they need
 * the appliance. When we end, however that comes, the agent does, with it its namespace, and with that the mounts and loop devices.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rmdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { BlockReader } from '../block/block-device.ts'
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { DirectoryNode } from '../files/file-tree.ts'
import { virtualDirectory, virtualFile } from '../files/virtual-node.ts'
import { runTool } from '../recovery/external-tool.ts'
import { safeNames } from './appliance-vm.ts'
import type { GuestDisk, GuestFilesystems, OpenGuest } from './guest-filesystems.ts'
import { AGENT_PROGRAM } from './guest-programs.ts'
import { remoteGuests } from './remote-tree.ts'

export interface KernelGuestsOptions {
  readonly clock: Clock
  readonly runDir: string
  /** Names the trees of one guest, another one for each. */
  readonly treePrefix: () => string
  /** Serves a tree at an empty folder of this host, until it is disposed. */
  readonly mount: (root: DirectoryNode, mountPoint: string) => Promise<AsyncDisposable>
  /** Told of each agent, for tests. */
  readonly onStart?: (pid: number | undefined) => void
}

/** Throws 'tool-missing', 'guest-lost' where mounts are not allowed here, and what mounting the disks throws. Needs root. */
export const kernelGuests =
  ({ clock, runDir, treePrefix, mount, onStart }: KernelGuestsOptions): OpenGuest =>
  async (disks, { signal } = {}) => {
    for (const tool of TOOLS) await runTool(tool, ['--version'], { signal })
    await using undo = new AsyncDisposableStack()
    const folder = await ownFolder(runDir)
    undo.defer(() => removeFolder(folder))
    undo.use(await mount(disksFolder(disks), path.join(folder, DISKS)))
    signal?.throwIfAborted()
    const agent = undo.use(startAgent(folder, disks, clock))
    onStart?.(agent.pid)
    try {
      const guests = undo.use(await remoteGuests({ stream: agent.protocol, clock, treePrefix: treePrefix(), signal }))
      const owned = undo.move()
      return told(guests, agent.ended, () => owned.disposeAsync())
    } catch (error) {
      throw isLifeboatError(error, 'guest-lost') ? died(await agent.ended, error) : error
    }
  }

const PROGRAMS = fileURLToPath(new URL('../../kernel-mounts', import.meta.url))
const TOOLS = ['setpriv', 'unshare', 'mount', 'findmnt', 'blkid', 'partx']
const FOLDER = 'trusted-'
const DISKS = 'disks'
/** Of the agent's own namespace: this host sees an empty folder. */
const MOUNTS = 'mounts'

async function ownFolder(runDir: string): Promise<string> {
  await mkdir(runDir, { recursive: true, mode: 0o700 })
  for (const name of await readdir(runDir)) {
    const pid = /^trusted-(\d+)-/.exec(name)?.[1]
    const isLeft = pid !== undefined && !(await stat(`/proc/${pid}`).catch(() => undefined))
    if (isLeft) await removeFolder(path.join(runDir, name))
  }
  const folder = await mkdtemp(path.join(runDir, `${FOLDER}${process.pid}-`))
  for (const name of [DISKS, MOUNTS]) await mkdir(path.join(folder, name), { mode: 0o700 })
  return folder
}

/** Only what is empty goes: what is still mounted there is left alone. */
async function removeFolder(folder: string): Promise<void> {
  for (const name of [DISKS, MOUNTS, '']) await rmdir(path.join(folder, name)).catch(() => {})
}

function disksFolder(disks: readonly GuestDisk[]): DirectoryNode {
  const entries = disks.map(({ image }, index) => ({
    name: `${index}.raw`,
    node: virtualFile({
      tree: 'trusted',
      inode: BigInt(index + 2),
      permissions: 0o400,
      size: image.size,
      open: async () => lent(image),
    }),
  }))
  return virtualDirectory({ tree: 'trusted', inode: 1n, permissions: 0o500, entries: async () => entries })
}

/** Whoever opened the disks closes them. */
const lent = (image: BlockReader): BlockReader => ({
  size: image.size,
  blockSize: image.blockSize,
  readInto: (target, offset, options) => image.readInto(target, offset, options),
  ...(image.borrow ? { borrow: (offset, length) => image.borrow?.(offset, length) } : {}),
  extents: (range, options) => image.extents(range, options),
  ...(image.prefetch ? { prefetch: async (range, options) => await image.prefetch?.(range, options) } : {}),
  [Symbol.asyncDispose]: async () => {},
})

interface Agent extends AsyncDisposable {
  readonly pid: number | undefined
  readonly protocol: Duplex
  /** How it ended, in words for people. Never rejects. */
  readonly ended: Promise<string>
}

function startAgent(folder: string, disks: readonly GuestDisk[], clock: Clock): Agent {
  const words = ['--pdeathsig', 'KILL', '--', 'unshare', '--mount', '--propagation', 'private', '--']
  const child = spawn('setpriv', [...words, path.join(PROGRAMS, 'start'), AGENT_PROGRAM], {
    cwd: '/',
    env: {
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      LIFEBOAT_FOLDER: folder,
      LIFEBOAT_DISKS: safeNames(disks).join(' '),
    },
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
  })
  const protocol = child.stdio[3]
  if (!(protocol instanceof Duplex)) throw new LifeboatError('internal', 'the agent has no socket')
  // Whoever speaks the protocol listens later.
  protocol.on('error', () => {})
  const ended = endOf(child)
  return {
    pid: child.pid,
    protocol,
    ended,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      // One that waits for the disks, in the kernel, ends when they are unmounted.
      const enough = new AbortController()
      const late = clock.sleep(limits.guestKernelEndMs, { signal: enough.signal }).catch(() => {})
      await Promise.race([ended, late])
      enough.abort()
    },
  }
}

const SAID_MAX = 2000

function endOf(child: ChildProcess): Promise<string> {
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-SAID_MAX)
  })
  return new Promise(resolve => {
    child.once('error', error => resolve(`could not be started: ${messageOf(error)}`))
    child.once('exit', (code, signal) => resolve(`ended with ${signal ?? code}: ${said.trim() || 'it said nothing'}`))
  })
}

/** A connection that was lost says how its agent ended; whoever opens the guest anew gets another one. */
function told(guests: GuestFilesystems, ended: Promise<string>, close: () => Promise<void>): GuestFilesystems {
  let isClosed = false
  const work = async <T>(asked: Promise<T>): Promise<T> => {
    try {
      return await asked
    } catch (error) {
      if (!isLifeboatError(error, 'guest-lost') || isClosed) throw error
      throw died(await ended, error)
    }
  }
  return {
    volumes: options => work(guests.volumes(options)),
    unlock: (volume, key, options) => work(guests.unlock(volume, key, options)),
    open: (volume, options) => work(guests.open(volume, options)),
    async [Symbol.asyncDispose]() {
      isClosed = true
      await close()
    },
  }
}

const died = (how: string, cause: unknown): LifeboatError =>
  new LifeboatError('guest-lost', `the process that has this host's kernel read the guest's filesystems ${how}`, {
    retry: 'transient',
    hint: 'Mounts need root with CAP_SYS_ADMIN and loop devices. Without --trust-guest an appliance reads them, which needs neither.',
    cause,
  })
