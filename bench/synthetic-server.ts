/** `synthetic-server.ts BYTES SOCKET CACHE-BYTES`: serves a synthetic point until SIGTERM; a process of its own, so that its memory can be measured. */
import { once } from 'node:events'
import { ChunkCache } from '../src/cache/chunk-cache.ts'
import { exportPoint } from '../src/recovery/export.ts'
import { exporter, synthetic } from './synthetic.ts'

const [bytes = '', socket = '', cacheBytes = ''] = process.argv.slice(2)
const { point, open } = await synthetic(Number(bytes))
await using repository = await open()
await using _running = await exportPoint({
  repository,
  point,
  listen: { socket },
  exporter,
  cache: new ChunkCache({ maxBytes: Number(cacheBytes) }),
})
await once(process, 'SIGTERM')
