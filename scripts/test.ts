/**
 * Runs the tests of one kind: `ordinary` is every *.test.ts without a further suffix, `full` every *.full.test.ts, `soak`
 * every *.soak.test.ts. Arguments narrow it to the files whose path contains one of them.
 *
 * The last line counts what node:test itself counted. With CI=true a skipped test, or none at all, is a failure: a machine
 * that lacks a tool must not look green.
 */
import { globSync } from 'node:fs'
import { relative } from 'node:path'
import process from 'node:process'
import { finished } from 'node:stream/promises'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import { cephLacking, ownCluster } from '../test/doubles/own-ceph.ts'
import { endLeftovers } from '../test/guest/process-record.ts'

interface Kind {
  readonly files: RegExp
  readonly fileTimeoutMs: number
}

const KINDS: Readonly<Record<string, Kind>> = {
  ordinary: { files: /^[^.]+\.test\.ts$/, fileTimeoutMs: 5 * 60_000 },
  full: { files: /\.full\.test\.ts$/, fileTimeoutMs: 40 * 60_000 },
  soak: { files: /\.soak\.test\.ts$/, fileTimeoutMs: 12 * 3_600_000 },
}

interface Count {
  passed: number
  failed: number
  skipped: number
}

const [name = '', ...filters] = process.argv.slice(2)
const kind = KINDS[name]
if (kind === undefined) throw new Error(`no such kind of tests: '${name}'`)

const files = globSync('test/**/*.test.ts')
  .sort()
  .filter(path => kind.files.test(path.slice(path.lastIndexOf('/') + 1)))
  .filter(path => filters.length === 0 || filters.some(filter => path.includes(filter)))

// Files that start guests or occupy the machine run one at a time; two processors take two of the others, which compute. Of the
// ordinary ones that is all but integration.
const computes = /^test\/(fuzz|property|simulation|unit)\//
const alone = (path: string): boolean =>
  name === 'ordinary' ? path.startsWith('test/integration/') : name === 'soak' || !computes.test(path)
// Long ones that start no guest: they mostly wait, for stores, disks and deadlines, and run beside those that do.
const waits =
  /\/(nbd-extended|[a-z-]*ceph[a-z-]*|disk-cache-kill|outage|overlay-kill|several-hosts|store-faults)\.full\./
const count: Count = { passed: 0, failed: 0, skipped: 0 }
const silent: string[] = []
const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort())

endLeftovers()
// One cluster for all that need it: each would take 20 s to start its own.
const needsCeph = files.some(path => path.includes('ceph')) && !cephLacking && process.env.LIFEBOAT_CEPH === undefined
await using cluster = needsCeph ? await ownCluster() : undefined
if (cluster) process.env.LIFEBOAT_CEPH = cluster.folder
await runFiles(
  files.filter(path => !alone(path)),
  2,
)
await Promise.all([
  runFiles(
    files.filter(path => alone(path) && !waits.test(path)),
    1,
  ),
  runFiles(
    files.filter(path => alone(path) && waits.test(path)),
    1,
  ),
])
endLeftovers()

const { passed, failed, skipped } = count
const strict = process.env.CI === 'true'
const complaints = [
  ...silent.map(path => `${path} ended without having run its tests`),
  ...(passed + failed === 0 && (strict || filters.length > 0) ? ['no test ran'] : []),
  ...(strict && skipped > 0 ? [`${skipped} skipped: this machine lacks something that the tests need`] : []),
  ...(stop.signal.aborted ? ['interrupted'] : []),
]
for (const complaint of complaints) process.stdout.write(`not accepted: ${complaint}\n`)
process.stdout.write(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`)
process.exitCode = failed > 0 || complaints.length > 0 ? 1 : 0

async function runFiles(batch: readonly string[], concurrency: number): Promise<void> {
  if (batch.length === 0 || stop.signal.aborted) return
  const events = run({ files: [...batch], concurrency, timeout: kind?.fileTimeoutMs, signal: stop.signal })
  const ended = new Set<string>()
  events.on('test:summary', ({ file, counts }) => {
    // One summary for each file that came to its end, and a last one without a name for all of them.
    if (file !== undefined) {
      ended.add(relative('', file))
      return
    }
    count.passed += counts.passed
    count.skipped += counts.skipped + counts.todo
    count.failed += counts.tests - counts.passed - counts.skipped - counts.todo
  })
  // node:test takes a file without tests, or one that exits with 0 in the middle of one, for a passed test.
  events.on('test:pass', ({ name, nesting }) => {
    if (nesting > 0 || !batch.includes(name) || ended.has(name)) return
    silent.push(name)
    count.passed--
    count.failed++
  })
  const shown = events.compose(spec)
  shown.pipe(process.stdout, { end: false })
  await finished(shown)
}
