/** `npm run bench [-- g9 g13 ... --rounds 3]`: runs the goals, prints one line each, keeps raw figures in bench/results/. */
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import type { Goal, Row } from './goal.ts'
import { install } from './installed.ts'

const HERE = import.meta.dirname
const { values, positionals } = parseArgs({
  options: { rounds: { type: 'string', default: '5' } },
  allowPositionals: true,
})
const wanted = positionals.map(name => name.toLowerCase())
const files = (await readdir(HERE))
  .filter(name => /^(g\d+-.*|sizes|dedup|garbage|gc-memory|files-get)\.ts$/.test(name))
  .sort(byNumber)
await mkdir(path.join(HERE, 'results'), { recursive: true })

await install()
process.stdout.write('goal, product, peer, ratio, target, verdict\n')
let failed = false
const started = performance.now()
for (const file of files) {
  if (wanted.length > 0 && !wanted.some(name => file.startsWith(`${name}-`) || file === `${name}.ts`)) continue
  const { goal }: { goal: Goal } = await import(path.join(HERE, file))
  const dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-bench-'))
  const raw: Record<string, unknown> = {}
  try {
    const rows = await goal.run({
      dir,
      rounds: Math.max(1, Number(values.rounds)),
      record: (name, value) => {
        raw[name] = value
      },
      say: text => process.stderr.write(`${goal.id}: ${text}\n`),
    })
    for (const row of rows) print(row)
    await writeFile(path.join(HERE, 'results', `${goal.id}.json`), `${JSON.stringify({ rows, raw }, null, 1)}\n`)
  } catch (error) {
    failed = true
    process.stderr.write(`${goal.id}: ${error instanceof Error ? error.stack : error}\n`)
    print({ goal: goal.id, product: goal.title, peer: '', ratio: undefined, target: '', verdict: 'not measured' })
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}
process.stderr.write(`${((performance.now() - started) / 60_000).toFixed(1)} minutes\n`)
process.exitCode = failed ? 1 : 0

function print({ goal, product, peer, ratio, target, verdict, spread }: Row): void {
  const range = spread ? ` [${spread.map(value => value.toFixed(3)).join('-')}]` : ''
  process.stdout.write(
    `${goal}, ${product}, ${peer}, ${ratio === undefined ? '-' : ratio.toFixed(3)}${range}, ${target}, ${verdict}\n`,
  )
}

function byNumber(a: string, b: string): number {
  const number = (name: string) => Number(/^g(\d+)/.exec(name)?.[1] ?? 99)
  return number(a) - number(b)
}
