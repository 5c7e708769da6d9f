/**
 * The control socket of a session: one request a connection, answered with lines of progress and one result or error. Only
 * this user can connect: mode 0600 in a folder of mode 0700. Everything is bounded: the request, the time until it is there,
 * the clients. A client that goes takes its command along.
 */
import { chmod, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type ControlReply, encodeReply, errorReply, type Fields, parseRequest } from './control-protocol.ts'

export interface ControlSocketOptions {
  readonly path: string
  readonly clock: Clock
  readonly run: (
    command: string,
    request: Fields,
    options: { readonly signal: AbortSignal; readonly progress: (progress: Fields) => void },
  ) => Promise<Fields>
}

export interface ControlSocket extends AsyncDisposable {
  /** Resolves when no command is under way and every answer was taken. */
  idle(): Promise<void>
  /** Takes no more requests, and ends what is under way with `reason`; dispose does the same. */
  close(reason: LifeboatError): Promise<void>
}

/** The caller owns the session, so that a socket that is there is a dead owner's. */
export async function serveControl({ path, clock, run }: ControlSocketOptions): Promise<ControlSocket> {
  const stopped = new AbortController()
  const underWay = new Set<Promise<void>>()
  const accept = (socket: Socket): void => {
    if (underWay.size >= limits.sessionClientsMax) {
      socket.destroy()
      return
    }
    const served = serve(socket).finally(() => underWay.delete(served))
    underWay.add(served)
  }

  async function serve(socket: Socket): Promise<void> {
    const gone = new AbortController()
    const closed = new Promise<void>(resolve => {
      socket.once('close', () => {
        gone.abort(new LifeboatError('interrupted', 'the one who asked has gone'))
        resolve()
      })
    })
    socket.on('error', () => {})
    const signal = AbortSignal.any([gone.signal, stopped.signal])
    const send = (reply: ControlReply) => void (socket.writable && socket.write(encodeReply(reply)))
    try {
      const { command, request } = parseRequest(await firstLine(socket, clock, signal))
      const progress = (fields: Fields) => {
        // One who does not read gets the result, not every step.
        if (socket.writableLength < limits.sessionRequestMax) send({ progress: fields })
      }
      send({ result: await run(command, request, { signal, progress }) })
    } catch (error) {
      send(errorReply(error))
    }
    const taken = new AbortController()
    socket.end(() => taken.abort())
    await Promise.race([closed, clock.sleep(limits.sessionRequestMs, { signal: taken.signal }).catch(() => {})])
    socket.destroy()
  }

  await rm(path, { force: true })
  const server = createServer(accept)
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve))
  await chmod(path, 0o600)
  const idle = async () => {
    while (underWay.size > 0) await Promise.all(underWay)
  }
  const close = async (reason: LifeboatError) => {
    // Its own file goes with the server; the folder may be gone already.
    server.close()
    stopped.abort(reason)
    await idle()
  }
  return {
    idle,
    close,
    [Symbol.asyncDispose]: () => close(new LifeboatError('interrupted', 'the session is stopped')),
  }
}

/** Throws 'usage' for a line that is too long, and the signal's reason. */
async function firstLine(socket: Socket, clock: Clock, signal: AbortSignal): Promise<Buffer> {
  const parts: Buffer[] = []
  let length = 0
  const found = Promise.withResolvers<Buffer>()
  const refuse = (why: string) => found.reject(new LifeboatError('usage', why))
  socket.on('data', (part: Buffer) => {
    const end = part.indexOf(10)
    length += end < 0 ? part.length : end
    if (length > limits.sessionRequestMax) {
      // Read on and dropped: an end with bytes unread would cut the answer off.
      socket.removeAllListeners('data').resume()
      return refuse('a request has at most 64 KiB')
    }
    parts.push(end < 0 ? part : part.subarray(0, end))
    // What follows is read and dropped, so that the end of the connection is seen.
    if (end >= 0) {
      socket.removeAllListeners('data').resume()
      found.resolve(Buffer.concat(parts))
    }
  })
  const done = new AbortController()
  const within = AbortSignal.any([signal, done.signal])
  signal.addEventListener('abort', () => found.reject(signal.reason), { once: true })
  const late = clock.sleep(limits.sessionRequestMs, { signal: within }).then(
    () => refuse('no request came'),
    () => {},
  )
  try {
    return await found.promise
  } finally {
    done.abort()
    await late
  }
}
