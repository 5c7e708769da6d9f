/** A Unix socket that speaks in lines: what QMP and the guest agent have in common. Lines are bounded before they are kept. */
import { connect, type Socket } from 'node:net'
import type { AbortOptions } from '../../core/scope.ts'

export interface LineSocket {
  /** To a peer that is gone nothing is sent; `closed` says so. */
  send(text: string | Uint8Array): void
  close(): void
}

export interface LineSocketHandlers {
  /** One line without its end. */
  line(line: Buffer): void
  /** Once, whoever closed. */
  closed(error: Error | undefined): void
}

/** Resolves when connected; rejects with Node's own error (ENOENT, ECONNREFUSED, EACCES ...). */
export function connectLines(
  path: string,
  lineMax: number,
  handlers: LineSocketHandlers,
  { signal }: AbortOptions = {},
): Promise<LineSocket> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const socket = connect({ path })
    let failure: Error | undefined
    let connected = false
    const onAbort = () => socket.destroy()
    signal?.addEventListener('abort', onAbort, { once: true })

    socket.on('error', error => {
      failure = error
    })
    socket.on('close', () => {
      signal?.removeEventListener('abort', onAbort)
      if (connected) handlers.closed(failure)
      else reject(signal?.aborted ? signal.reason : (failure ?? new Error(`the socket ${path} closed at once`)))
    })
    socket.on('connect', () => {
      connected = true
      signal?.removeEventListener('abort', onAbort)
      socket.on('data', lineSplitter(socket, lineMax, handlers.line))
      resolve({
        send: text => {
          if (socket.writable) socket.write(text)
        },
        close: () => socket.destroy(),
      })
    })
  })
}

function lineSplitter(socket: Socket, lineMax: number, deliver: (line: Buffer) => void): (data: Buffer) => void {
  let parts: Buffer[] = []
  let held = 0
  return data => {
    let from = 0
    for (let end = data.indexOf(10); end >= 0; end = data.indexOf(10, from)) {
      parts.push(data.subarray(from, end))
      const line = parts.length === 1 ? parts[0]! : Buffer.concat(parts)
      parts = []
      held = 0
      from = end + 1
      deliver(line)
    }
    if (from < data.length) {
      parts.push(data.subarray(from))
      held += data.length - from
    }
    if (held > lineMax) socket.destroy(new Error(`a line longer than ${lineMax} bytes`))
  }
}
