/** Where a server listens: a TCP address, or a socket file that is replaced when stale, refused when live, and removed only while it is ours. */
import { chmod, lstat, rename, unlink } from 'node:fs/promises'
import { connect, type Server } from 'node:net'
import { LifeboatError } from '../core/errors.ts'

export type ListenAddress = { readonly socket: string } | { readonly host: string; readonly port: number }

export interface Listening {
  /** As a client would write it, without the export's name. */
  readonly address: ListenAddress
  /** Removes the socket file if it is still the one that was made here. */
  removeFile(): Promise<void>
}

export async function listen(server: Server, where: ListenAddress): Promise<Listening> {
  if (!('socket' in where)) {
    await bound(server, { host: where.host, port: where.port })
    const address = server.address()
    const port = address !== null && typeof address === 'object' ? address.port : where.port
    return { address: { host: where.host, port }, removeFile: async () => {} }
  }
  const { socket } = where
  if (await answers(socket))
    throw new LifeboatError('nbd-refused', `another server is listening at ${socket}`, {
      hint: 'Stop it, or choose another --socket.',
    })
  // Bound beside its place and moved there with its mode set: nobody can connect before that, and a stale file is replaced at once.
  const fresh = `${socket}~`
  await unlink(fresh).catch(() => {})
  await bound(server, { path: fresh })
  await chmod(fresh, 0o600)
  const { ino, dev } = await lstat(fresh)
  await rename(fresh, socket)
  return {
    address: where,
    removeFile: async () => {
      const there = await lstat(socket).catch(() => undefined)
      if (there?.ino === ino && there.dev === dev) await unlink(socket).catch(() => {})
    },
  }
}

const bound = (server: Server, where: { path: string } | { host: string; port: number }): Promise<void> =>
  new Promise((resolve, reject) => {
    const failed = (cause: NodeJS.ErrnoException) =>
      reject(
        new LifeboatError('nbd-refused', `cannot listen at ${nameOf(where)}: ${cause.code ?? cause.message}`, {
          cause,
          hint: 'Check that the folder of the socket exists and can be written, or that the port is free.',
        }),
      )
    server.once('error', failed)
    server.listen({ ...where, backlog: 1024 }, () => {
      server.off('error', failed)
      resolve()
    })
  })

const nameOf = (where: { path: string } | { host: string; port: number }): string =>
  'path' in where ? where.path.replace(/~$/, '') : `${where.host}:${where.port}`

/** True where something accepts connections. A file that is no socket is never taken for a stale one. */
async function answers(path: string): Promise<boolean> {
  const there = await lstat(path).catch(() => undefined)
  if (there === undefined) return false
  if (!there.isSocket())
    throw new LifeboatError('output-exists', `${path} exists and is not a socket`, { hint: 'Choose another --socket.' })
  return new Promise(resolve => {
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
}
