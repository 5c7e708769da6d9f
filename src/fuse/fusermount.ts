/**
 * fusermount3, which mounts for root and for everybody else alike, and hands the descriptor of /dev/fuse over a socket. Its own
 * auto_unmount is not used: it looks whether the mount is dead, which root may not do in a mount of somebody else.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { access } from 'node:fs/promises'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { receiveDescriptor, socketPair } from '../native/fuse-device.ts'
import { mountPointError } from './mount-point.ts'

const PROGRAM = 'fusermount3'
/** Nothing of the caller's for a program that runs as root. */
const ENVIRONMENT = { PATH: '/run/wrappers/bin:/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C' }

export interface MountRequest extends AbortOptions {
  readonly mountPoint: string
  readonly fsName: string
  readonly allowOther: boolean
}

/** The descriptor, when it is mounted. Throws 'fuse-unavailable' and 'mount-point'. */
export async function mountFuse({ mountPoint, fsName, allowOther, signal }: MountRequest): Promise<number> {
  await access('/dev/fuse').catch(cause => {
    throw unavailable(
      'This host has no /dev/fuse',
      'Load the kernel module: `modprobe fuse`. In a container, hand the device in.',
      cause,
    )
  })
  const options = ['ro', 'nosuid', 'nodev', 'subtype=lifeboat', `fsname=${fsName.replaceAll(/[\\,]/g, '\\$&')}`]
  if (allowOther) options.push('allow_other', 'default_permissions')
  const [ours, theirs] = socketPair()
  try {
    const child = spawn(PROGRAM, ['-o', options.join(','), '--', mountPoint], {
      stdio: ['ignore', 'ignore', 'pipe', theirs],
      env: { ...ENVIRONMENT, _FUSE_COMMFD: '3' },
      ...(signal === undefined ? {} : { signal }),
    })
    // Closed here at once, so that its end is seen when the program has ended.
    closeSync(theirs)
    const [fd, said] = await Promise.all([receiveDescriptor(ours, limits.fuseMountMs), wordsOf(child, signal)])
    if (fd >= 0) return fd
    signal?.throwIfAborted()
    throw refusal(mountPoint, said === '' ? `errno ${-fd}` : said)
  } finally {
    closeSync(ours)
  }
}

/** What it complained about, when it has ended. */
async function wordsOf(child: ChildProcess, signal: AbortSignal | undefined): Promise<string> {
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', text => {
    said += text
  })
  try {
    await once(child, 'close')
  } catch (cause) {
    signal?.throwIfAborted()
    throw unavailable('fusermount3 cannot be run', 'Install the package fuse3: `apt-get install fuse3`.', cause)
  }
  return said.trim()
}

const unavailable = (what: string, hint: string, cause?: unknown): LifeboatError =>
  new LifeboatError('fuse-unavailable', what, { hint, cause })

const REFUSALS: readonly (readonly [RegExp, string])[] = [
  [
    /user_allow_other/,
    'Put the line `user_allow_other` into /etc/fuse.conf, or mount as root; without --allow-other, only you can look into the mount.',
  ],
  [/mount_max|too many/, 'Unmount another one, or raise `mount_max` in /etc/fuse.conf.'],
  [
    /not permitted|fuse device|\/dev\/fuse/,
    'Mounts are not allowed here. A container needs /dev/fuse and the capability SYS_ADMIN; else mount on the host.',
  ],
]

function refusal(mountPoint: string, said: string): LifeboatError {
  const known = REFUSALS.find(([pattern]) => pattern.test(said))
  if (known !== undefined) return unavailable(`It was not mounted: ${said}`, known[1])
  return mountPointError(
    mountPoint,
    `was refused: ${said}`,
    'Name an empty folder that belongs to this user and that others let you reach.',
  )
}

/** Undefined when it is done, else what stands against it. `lazy`: out of sight at once, and gone when nobody uses it any more. */
export const unmountFuse = (mountPoint: string, { lazy = false } = {}): Promise<string | undefined> =>
  new Promise(resolve => {
    const words = ['-u', ...(lazy ? ['-z'] : []), '--', mountPoint]
    execFile(PROGRAM, words, { env: ENVIRONMENT, timeout: limits.fuseMountMs }, (error, _, stderr) =>
      resolve(error === null ? undefined : stderr.trim() || error.message),
    )
  })

/**
 * Takes the mount away when this process has ended, however that came: a shell in a session of its own that reads until the end of
 * its input. The line that it gets names the mount's device, so that a later mount at the same place is left alone.
 */
const WATCH = `trap '' HUP INT TERM
while read -r line; do device=$line; done
if [ -n "$device" ]; then grep -q "^[0-9]* [0-9]* $device " /proc/self/mountinfo || exit 0; fi
exec fusermount3 -u -z -q -- "$1"`

export interface MountWatch {
  /** Of the mount that it is for. */
  mounted(device: string): void
  /** It does nothing any more. */
  end(): void
}

export function watchOverMount(mountPoint: string): MountWatch {
  const child = spawn('/bin/sh', ['-c', WATCH, 'sh', mountPoint], {
    stdio: ['pipe', 'ignore', 'ignore'],
    env: ENVIRONMENT,
    cwd: '/',
    detached: true,
  })
  // Without it the mount works as well; and a pipe to who was killed is no trouble.
  child.on('error', () => {})
  child.stdin.on('error', () => {})
  child.unref()
  return {
    mounted: device => child.stdin.write(`${device}\n`),
    end: () => child.kill('SIGKILL'),
  }
}
