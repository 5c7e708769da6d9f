/** `scattered-overlay-open.ts FOLDER BYTES`: opens an overlay and says how long that took and what memory it has now. */
import { openOverlays } from '../src/block/overlay.ts'
import { nodeOverlayFiles } from '../src/block/overlay-files.ts'
import { systemClock } from '../src/core/clock.ts'

const [folder = '', bytes = ''] = process.argv.slice(2)
const base = {
  size: Number(bytes),
  blockSize: 4096,
  readInto: async () => {},
  async *extents() {},
  [Symbol.asyncDispose]: async () => {},
}
const idle = process.memoryUsage().rss
const started = performance.now()
const cpu = process.cpuUsage()
const overlays = await openOverlays({
  folder,
  disks: [{ name: 'disk', base }],
  files: nodeOverlayFiles,
  clock: systemClock,
  bootId: 'this boot',
})
const seconds = (performance.now() - started) / 1000
const { user, system } = process.cpuUsage(cpu)
const { writtenBytes } = overlays.disk('disk')
process.stdout.write(
  JSON.stringify({
    seconds,
    cpuSeconds: (user + system) / 1e6,
    writtenBytes,
    mebibytes: (process.memoryUsage().rss - idle) / 2 ** 20,
  }),
)
process.exit(0)
