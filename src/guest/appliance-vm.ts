/**
 * One run of the appliance: our exports of the disks, and QEMU, which is a process of a user of its own where we may choose that,
 * with no network, no privileges and one socket, and which the kernel ends when this process does.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, copyFile, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Duplex } from 'node:stream'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Accelerator } from '../recovery/accelerator.ts'
import type { Exporter, RunningExports } from '../recovery/exporter.ts'
import { runTool } from '../recovery/external-tool.ts'
import { applianceCommand } from './appliance-command.ts'
import type { ApplianceImage } from './appliance-image.ts'
import { wholeRoot } from './appliance-root.ts'
import type { GuestDisk } from './guest-filesystems.ts'

export interface ApplianceVm extends AsyncDisposable {
  readonly pid: number | undefined
  /** To the agent, of docs/guest-protocol.md. It greets when the machine is up. */
  readonly protocol: Duplex
  /** The agent has greeted: what the machine was started from is not needed any more. */
  readonly isUp: () => Promise<void>
  /** How it ended, in words for people. Never rejects. */
  readonly ended: Promise<string>
}

export interface StartAppliance extends AbortOptions {
  readonly disks: readonly GuestDisk[]
  readonly exporter: Exporter
  readonly image: ApplianceImage
  readonly accelerator: Accelerator
  /** Where what journals write goes for the time of the run: up to `applianceOverlayBytes` for each disk. */
  readonly temporary: string
  readonly program: string
  readonly agent?: string
}

/** Throws 'guest-unsupported' of more disks than fit, 'tool-missing'. Whoever wants the machine up waits for its greeting. */
export async function startAppliance(request: StartAppliance): Promise<ApplianceVm> {
  const { disks, image, agent, signal } = request
  if (disks.length > limits.applianceDisksMax) throw tooManyDisks(disks.length)
  // Of what is started through others nobody tells that it is not there.
  for (const tool of [request.program, 'prlimit', 'setpriv']) await runTool(tool, ['--version'], { signal })
  await using undo = new AsyncDisposableStack()
  await removeLeftovers(request.temporary)
  const folder = await mkdtemp(path.join(request.temporary, `${FOLDER}${process.pid}-`))
  undo.defer(() => rm(folder, { recursive: true, force: true }))
  const files = {
    kernel: path.join(folder, NAMES.kernel),
    root: path.join(folder, NAMES.root),
    socket: path.join(folder, NAMES.nbdSocket),
  }
  await copyFile(image.kernel, files.kernel)
  await writeFile(files.root, await wholeRoot(image.root, { diskNames: safeNames(disks), agent }))
  undo.use(await exportDisks(request, files.socket))
  const user = await ownUser()
  if (user !== undefined) await handOver(folder, Object.values(files), user)
  signal?.throwIfAborted()
  const child = startQemu(request, folder, user)
  const protocol = child.stdio[3]
  if (!(protocol instanceof Duplex)) throw new LifeboatError('internal', 'QEMU has no socket')
  // Whoever speaks the protocol listens later.
  protocol.on('error', () => {})
  const ended = endOf(child)
  const stack = undo.move()
  const close = async () => {
    child.kill('SIGKILL')
    await ended
    await stack.disposeAsync()
  }
  let closing: Promise<void> | undefined
  return {
    pid: child.pid,
    protocol,
    ended,
    async isUp() {
      for (const file of [files.kernel, files.root]) await rm(file, { force: true })
    },
    // Who ends it second waits for the first.
    [Symbol.asyncDispose]: () => (closing ??= close()),
  }
}

const NAMES = { kernel: 'kernel', root: 'root', nbdSocket: 'nbd' }
const FOLDER = 'lifeboat-appliance-'

/** What a process that was killed has left. Its QEMU went with it, and so did what that wrote. */
async function removeLeftovers(temporary: string): Promise<void> {
  for (const name of await readdir(temporary)) {
    const pid = name.startsWith(FOLDER) ? /^(\d+)-/.exec(name.slice(FOLDER.length))?.[1] : undefined
    if (pid === undefined || (await stat(`/proc/${pid}`).catch(() => undefined))) continue
    // Another user's stays.
    await rm(path.join(temporary, name), { recursive: true, force: true }).catch(() => {})
  }
}

/** Volumes are called after them, so they have to be names. */
export const safeNames = (disks: readonly GuestDisk[]): readonly string[] =>
  disks.map(({ name }) => name.replaceAll(/[^A-Za-z0-9+_.-]/g, '_').replace(/^\./, '_') || '_')

const exportName = (index: number): string => `disk${index}`

async function exportDisks({ disks, exporter, signal }: StartAppliance, socket: string): Promise<RunningExports> {
  const exports = disks.map(({ image }, index) => ({ name: exportName(index), device: image, readOnly: true }))
  return await exporter({ exports, listen: { socket }, signal })
}

/**
 * Of the users that nobody is: then nothing on this host is QEMU's, and no other program is this user. Undefined where we are not
 * root: then QEMU is who we are.
 */
async function ownUser(): Promise<number | undefined> {
  if (process.getuid?.() !== 0) return undefined
  const wanted = FIRST_USER + process.pid
  const map = await readFile('/proc/self/uid_map', 'utf8')
  const isMapped = map.split('\n').some(line => {
    const [first = Number.NaN, , count = 0] = line.trim().split(/\s+/).map(Number)
    return wanted >= first && wanted < first + count
  })
  return isMapped ? wanted : NOBODY
}

/** Far above those that are given to people, services and containers. */
const FIRST_USER = 2_000_000_000
const NOBODY = 65_534

async function handOver(folder: string, files: readonly string[], user: number): Promise<void> {
  for (const place of [folder, ...files]) await chown(place, user, user)
  await chmod(folder, 0o700)
}

/** Paths are relative to the folder: its user may not look into those above it, and need not. */
function startQemu(
  { program, accelerator, disks }: StartAppliance,
  folder: string,
  user: number | undefined,
): ChildProcess {
  const exports = disks.map((_, index) => exportName(index))
  const [command = '', ...words] = applianceCommand({ program, accelerator, ...NAMES, exports, user })
  const env = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', TMPDIR: '.' }
  return spawn(command, words, { cwd: folder, env, stdio: ['ignore', 'ignore', 'pipe', 'pipe'] })
}

const SAID_MAX = 2000

async function endOf(child: ChildProcess): Promise<string> {
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-SAID_MAX)
  })
  try {
    const [code, signal] = await once(child, 'close')
    const words = said.trim().replaceAll(/\s+/g, ' ')
    return `ended with ${signal ?? code}: ${words || meaningOf(signal)}`
  } catch (error) {
    return `could not be started: ${messageOf(error)}`
  }
}

function meaningOf(signal: unknown): string {
  if (signal === 'SIGXFSZ')
    return `the guest's journals wrote more than ${limits.applianceOverlayBytes} bytes beside one disk`
  if (signal === 'SIGSYS') return 'it called what its sandbox forbids'
  if (signal === 'SIGKILL') return 'it was killed'
  return 'the machine inside stopped: out of memory, or broken by a filesystem'
}

const tooManyDisks = (count: number): LifeboatError =>
  new LifeboatError(
    'guest-unsupported',
    `the appliance takes ${limits.applianceDisksMax} disks, and the VM has ${count}`,
    {
      hint: 'Boot the point and copy the files in the guest: lifeboat boot POINT.',
    },
  )
