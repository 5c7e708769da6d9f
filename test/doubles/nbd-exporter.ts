/** The exporter that recovery is handed in tests: our own NBD server. */
import { systemClock } from '../../src/core/clock.ts'
import { serveNbd } from '../../src/nbd/server.ts'
import type { Exporter } from '../../src/recovery/exporter.ts'

export const testExporter: Exporter = async ({ exports, listen }) => {
  const server = await serveNbd({ exports, listen, clock: systemClock })
  return {
    uris: exports.map(({ name }) => server.uri(name)),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}
