/**
 * Where a server listens: a TCP address; a socket file that is replaced when stale, refused when live, and removed only while it
 * is ours; or a descriptor that is listening already, whose file belongs to whoever opened it.
 */
import { chmod, link, lstat, mkdtemp, open, readFile, readlink, rename, rm, unlink } from 'node:fs/promises'
import { connect, type Server } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { LifeboatError } from '../core/errors.ts'

/** As a client would write it. */
export type ListenAddress = { readonly socket: string } | { readonly host: string; readonly port: number }

export type ListenAt = ListenAddress | { readonly descriptor: number }

export interface Listening {
  readonly address: ListenAddress
  /** Removes the socket file if it is still the one that was made here. */
  removeFile(): Promise<void>
}

type Bindable = { path: string } | { host: string; port: number } | { fd: number }

export async function listen(server: Server, where: ListenAt): Promise<Listening> {
  if ('socket' in where) return listenAtFile(server, where.socket)
  if ('host' in where) await bound(server, where, `${where.host}:${where.port}`)
  else await bound(server, { fd: where.descriptor }, `descriptor ${where.descriptor}`)
  const address = server.address()
  const removeFile = async () => {}
  if (address !== null && typeof address === 'object')
    return { address: { host: 'host' in where ? where.host : address.address, port: address.port }, removeFile }
  // Node knows the addresses of TCP sockets only.
  return { address: { socket: 'descriptor' in where ? await pathOf(where.descriptor) : '' }, removeFile }
}

/** The path that a Unix socket was bound to by whoever opened it, from the kernel's table; '' where it has none. */
async function pathOf(descriptor: number): Promise<string> {
  const inode = /^socket:\[(\d+)\]$/.exec(await readlink(`/proc/self/fd/${descriptor}`))?.[1]
  for (const line of (await readFile('/proc/net/unix', 'utf8')).split('\n')) {
    const [, found, path] = /^(?:\S+\s+){6}(\d+) (.+)$/.exec(line) ?? []
    if (found === inode && path !== undefined) return path
  }
  return ''
}

/**
 * The file is made in a folder that only this user may enter, so that there is no moment in which another could connect, and is
 * given its name when it listens. A hard link does not replace what another server has put there in the meantime.
 */
async function listenAtFile(server: Server, socket: string): Promise<Listening> {
  await refuseLive(socket)
  const folder = await mkdtemp(join(dirname(socket), '.nbd-')).catch(cause => {
    throw cannotListen(socket, cause)
  })
  try {
    // Through its descriptor the folder's path is short, whatever the path of the socket. The name is this folder's alone: the
    // path is used once more when the server closes, when the descriptor may mean another folder.
    const name = basename(folder)
    const fresh = join(folder, name)
    await using inside = await open(folder)
    await bound(server, { path: `/proc/self/fd/${inside.fd}/${name}` }, socket)
    await chmod(fresh, 0o600)
    const { ino, dev } = await lstat(fresh)
    try {
      await claim(fresh, socket)
    } catch (error) {
      server.close()
      throw error
    }
    return { address: { socket }, removeFile: () => removeOwn(socket, { ino, dev }) }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

interface FileId {
  readonly ino: number
  readonly dev: number
}

/** Gives `fresh` the name of the socket. What lies there is taken away only if nobody listens at it. */
async function claim(fresh: string, socket: string): Promise<void> {
  for (let tries = 0; tries < 8; tries++) {
    try {
      await link(fresh, socket)
      return
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      // Some file systems have no hard links: there the last of two servers that start at once has the name.
      if (code === 'EPERM' || code === 'ENOTSUP') return rename(fresh, socket)
      if (code !== 'EEXIST') throw cannotListen(socket, cause)
    }
    const stale = await refuseLive(socket)
    if (stale !== undefined) await removeOwn(socket, stale)
  }
  throw inUse(socket)
}

/** Removes the file if it is `own`, also where a successor puts its own there at the same moment: that one is put back. */
async function removeOwn(socket: string, own: FileId): Promise<void> {
  const isOwn = async (path: string) => {
    const there = await lstat(path).catch(() => undefined)
    return there?.ino === own.ino && there.dev === own.dev
  }
  if (!(await isOwn(socket))) return
  const aside = `${socket}.${process.pid}.old`
  try {
    await rename(socket, aside)
  } catch {
    return
  }
  if (!(await isOwn(aside))) await link(aside, socket).catch(() => {})
  await unlink(aside).catch(() => {})
}

const bound = (server: Server, where: Bindable, name: string): Promise<void> =>
  new Promise((resolve, reject) => {
    const failed = (cause: Error) => reject(cannotListen(name, cause))
    server.once('error', failed)
    server.listen({ ...where, backlog: 1024 }, () => {
      server.off('error', failed)
      resolve()
    })
  })

function cannotListen(name: string, cause: unknown): LifeboatError {
  const code = cause instanceof Error && 'code' in cause ? cause.code : cause
  return new LifeboatError('nbd-refused', `cannot listen at ${name}: ${code}`, {
    cause,
    hint:
      HINTS[String(code)] ??
      'Name a socket in a folder that this user may write, or a free port of an address of this host.',
  })
}

const NO_SOCKET = 'Descriptor 3 is not a socket that listens: look at the .socket unit, or say --socket or --listen.'
const NO_SUCH_HOST = 'Name an address of this host, for example 127.0.0.1, or 0.0.0.0 for all of them.'

const HINTS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'Another program listens there: stop it, or choose another port.',
  EADDRNOTAVAIL: NO_SUCH_HOST,
  ENOTFOUND: NO_SUCH_HOST,
  EAI_AGAIN: NO_SUCH_HOST,
  ENOENT: 'The folder of the socket does not exist: make it, or choose another --socket.',
  ENOTDIR: 'The folder of the socket is not a folder: choose another --socket.',
  EACCES: 'Choose a folder that this user may write, or a port above 1023.',
  EROFS: 'Choose a folder that can be written.',
  ENOSPC: 'Make room on the disk of the socket, or choose a folder on another one.',
  ENOTSOCK: NO_SOCKET,
  EINVAL: NO_SOCKET,
}

const inUse = (socket: string): LifeboatError =>
  new LifeboatError('nbd-refused', `another server is listening at ${socket}`, {
    hint: 'Stop it, or choose another --socket.',
  })

/** Gives the stale file that is there, if any. A file that is no socket is never taken for one. */
async function refuseLive(path: string): Promise<FileId | undefined> {
  const there = await lstat(path).catch(() => undefined)
  if (there === undefined) return undefined
  if (!there.isSocket())
    throw new LifeboatError('output-exists', `${path} exists and is not a socket`, { hint: 'Choose another --socket.' })
  if (await answers(path)) throw inUse(path)
  return there
}

const answers = (path: string): Promise<boolean> =>
  new Promise(resolve => {
    const probe = connect(path)
    const done = (live: boolean) => {
      probe.destroy()
      resolve(live)
    }
    probe.once('connect', () => done(true))
    // Only a refusal proves that nobody listens there.
    probe.once('error', (error: NodeJS.ErrnoException) =>
      done(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    )
  })
