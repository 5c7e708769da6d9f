/**
 * A TCP proxy before an HTTP server that sees the requests go by and does to them what networks do: answers that are lost
 * after the work was done, cut and changed bytes, silence, refusal. Each fault that fired is recorded.
 */
import { connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export interface ProxiedRequest {
  readonly method: string
  /** As it stands in the request, with its query. */
  readonly path: string
}

export type ChaosFault =
  /** The whole request is passed on; instead of the answer comes a reset. */
  | 'lose-answer'
  /** A reset when half of the request's first bytes were passed on. */
  | 'reset-up'
  /** The connection ends in the middle of the answer's body. */
  | 'cut-down'
  /** A byte of the request's or the answer's body is another one. */
  | 'flip-up'
  | 'flip-down'
  | 'delay'

export interface ChaosProxy extends AsyncDisposable {
  readonly endpoint: string
  readonly requests: readonly ProxiedRequest[]
  readonly fired: readonly { readonly fault: ChaosFault | 'refuse'; readonly request?: ProxiedRequest }[]
  /** While true connections are reset, those that are open and new ones. */
  refuse(on: boolean): void
}

export interface ChaosOptions {
  /** Host and port of the server. */
  readonly upstream: string
  /** Asked for each request when its first bytes arrive. */
  readonly draw?: (request: ProxiedRequest, number: number) => ChaosFault | undefined
  readonly delayMs?: number
}

const HEAD = /^(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP\/1\.1\r\n/

export async function startChaosProxy({ upstream, draw, delayMs = 300 }: ChaosOptions): Promise<ChaosProxy> {
  const { hostname, port } = new URL(upstream)
  const requests: ProxiedRequest[] = []
  const fired: ChaosProxy['fired'][number][] = []
  const sockets = new Set<Socket>()
  let refusing = false

  const server = createServer(client => {
    if (refusing) {
      fired.push({ fault: 'refuse' })
      client.resetAndDestroy()
      return
    }
    const store = connect(Number(port), hostname)
    for (const socket of [client, store]) {
      sockets.add(socket)
      socket.setNoDelay()
      socket.once('close', () => sockets.delete(socket))
    }
    relay(client, store)
  })

  function relay(client: Socket, store: Socket): void {
    let request: ProxiedRequest = { method: '', path: '' }
    let fault: ChaosFault | undefined
    let [up, down] = [0, 0]
    let answered = true

    const fire = (): void => {
      if (fault) fired.push({ fault, request })
      fault = undefined
    }
    const reset = (): void => {
      fire()
      client.resetAndDestroy()
      store.destroy()
    }

    async function toStore(bytes: Buffer): Promise<Buffer | undefined> {
      const [, method, path] = (answered && HEAD.exec(bytes.subarray(0, 4096).toString('latin1'))) || []
      if (method !== undefined && path !== undefined) {
        request = { method, path }
        requests.push(request)
        fault = draw?.(request, requests.length)
        ;[up, down] = [0, 0]
        answered = false
      }
      const start = up
      up += bytes.length
      if (fault === 'delay') {
        fire()
        await sleep(delayMs)
      }
      if (fault === 'reset-up') {
        store.write(bytes.subarray(0, Math.floor(bytes.length / 2)))
        reset()
        return undefined
      }
      return fault === 'flip-up' ? flipped(bytes, start) : bytes
    }

    async function toClient(bytes: Buffer): Promise<Buffer | undefined> {
      answered = true
      const start = down
      down += bytes.length
      if (fault === 'lose-answer') {
        reset()
        return undefined
      }
      if (fault === 'cut-down' && down > 2_000) {
        fire()
        client.end(bytes.subarray(0, Math.floor(bytes.length / 2)))
        store.destroy()
        return undefined
      }
      return fault === 'flip-down' ? flipped(bytes, start) : bytes
    }

    /** Behind the head, so that it is the contents which lie. */
    function flipped(bytes: Buffer, start: number): Buffer {
      const body = start === 0 ? bytes.indexOf('\r\n\r\n') + 4 : 0
      if ((start === 0 && body === 3) || body >= bytes.length) return bytes
      const changed = Buffer.from(bytes)
      const at = body + Math.floor((bytes.length - body) / 2)
      changed[at] = changed[at]! ^ 0x20
      fire()
      return changed
    }

    pass(client, store, toStore)
    pass(store, client, toClient)
  }

  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port')
  return {
    endpoint: `http://127.0.0.1:${address.port}`,
    requests,
    fired,
    refuse(on) {
      refusing = on
      if (on) for (const socket of sockets) socket.resetAndDestroy()
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

/** In order, and no faster than the other side takes it. */
function pass(from: Socket, to: Socket, change: (bytes: Buffer) => Promise<Buffer | undefined>): void {
  const run = async () => {
    for await (const bytes of from) {
      const out = await change(bytes)
      if (out === undefined) return
      if (!to.write(out))
        await new Promise<void>(resolve => {
          const go = () => {
            to.off('drain', go).off('close', go)
            resolve()
          }
          to.once('drain', go).once('close', go)
        })
    }
    to.end()
  }
  run().catch(() => to.destroy()) // One side went away: so does the other.
}
