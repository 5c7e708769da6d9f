/** The exporter that recovery is handed: our NBD server. */

import type { Clock } from '../core/clock.ts'
import { type NbdServerLimits, serveNbd } from '../nbd/server.ts'
import type { ServerTls } from '../nbd/tls-server.ts'
import type { Exporter } from '../recovery/exporter.ts'
import { unprotected } from './export-listen.ts'
import type { Output } from './output.ts'

/** Without TLS, only what this host alone can reach is served; unless that was said to be right. */
export interface ExporterSecurity {
  readonly tls?: ServerTls
  readonly insecure?: boolean
}

export const nbdExporter =
  (
    clock: Clock,
    output: Pick<Output, 'message'>,
    { tls, insecure = false }: ExporterSecurity = {},
    limits: Partial<NbdServerLimits> = {},
  ): Exporter =>
  async ({ exports, listen, signal }) => {
    signal?.throwIfAborted()
    const log = (line: string) => output.message(line)
    const server = await serveNbd({ exports, listen, clock, log, tls, plainToo: insecure, limits })
    // What kind of socket was passed is known only when it is used. Nobody has been accepted yet.
    if ('host' in server.address && tls === undefined && !insecure) {
      await server.stop()
      throw unprotected('the address that was passed')
    }
    return {
      uris: exports.map(({ name }) => server.uri(name)),
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    }
  }
