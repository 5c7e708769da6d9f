/** The exporter that recovery is handed: our NBD server. */

import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { serveNbd } from '../nbd/server.ts'
import type { Exporter } from '../recovery/exporter.ts'
import type { Output } from './output.ts'

export const nbdExporter =
  (clock: Clock, output: Output): Exporter =>
  async ({ exports, listen, signal }) => {
    signal?.throwIfAborted()
    const server = await serveNbd({ exports, listen, clock, log: line => output.message(line) })
    return {
      uris: exports.map(({ name }) => server.uri(name)),
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    }
  }

/** HOST:PORT, with [::1]:PORT for IPv6. */
export function parseListen(text: string): { host: string; port: number } {
  const match = /^(?:\[(?<six>[^\]]+)\]|(?<host>[^:]+)):(?<port>\d{1,5})$/.exec(text)?.groups
  const port = Number(match?.port)
  const host = match?.six ?? match?.host
  if (!host || !(port >= 0 && port <= 65_535))
    throw new LifeboatError('usage', `--listen ${text} is not HOST:PORT`, {
      hint: 'for example --listen 127.0.0.1:10809',
    })
  return { host, port }
}
