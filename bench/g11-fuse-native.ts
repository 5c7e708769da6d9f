/** One tree in memory through our server and through fuse-native, each mounted afresh for every round, and looked at by other processes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { type Goal, judge } from './goal.ts'
import { ENTRIES, IMAGE_BYTES } from './memory-mount.ts'
import { run } from './tools.ts'

const HERE = import.meta.dirname

/** What is asked, in bash with the mount as $M; how many of what it is; the first time for each file, in this order. */
const QUESTIONS: readonly { readonly name: string; readonly script: string; readonly count: number }[] = [
  {
    name: 'stat of 5,000 files, cold',
    script: 'cd $M/many && printf "entry-%s\\n" $(seq 0 4999) | xargs stat -c %s > /dev/null',
    count: ENTRIES,
  },
  { name: 'sequential reads', script: 'dd if=$M/image of=/dev/null bs=1M status=none', count: IMAGE_BYTES / 1e6 },
  {
    name: 'sequential reads, O_DIRECT',
    script: 'dd if=$M/image of=/dev/null bs=1M iflag=direct status=none',
    count: IMAGE_BYTES / 1e6,
  },
  {
    name: '20,000 random reads, O_DIRECT',
    script: `fio --name=x --ioengine=psync --direct=1 --readonly --filename=$M/image --size=${IMAGE_BYTES} --rw=randread --bs=4k --number_ios=20000 --norandommap --randseed=1 > /dev/null`,
    count: 20_000,
  },
]
const LISTING = { name: 'ls -l of 5,000 entries', script: 'ls -l $M/many > /dev/null', count: ENTRIES }

interface Figure {
  readonly perSecond: number
  readonly cpuSeconds: number
}

export const goal: Goal = {
  id: 'G11-fuse-native',
  title: 'a tree in memory, against fuse-native',
  async run({ dir, rounds, record, say }) {
    const figures = new Map<string, Map<string, Figure[]>>()
    for (let round = 0; round < rounds; round++)
      // A listing answers what a stat would ask, so that each has a mount of its own.
      for (const who of ['ours', 'fuse-native'])
        for (const questions of [QUESTIONS, [LISTING]]) {
          const mount = await mounted(who, path.join(dir, `${who}-${round}-${questions.length}`)).catch(
            (error: unknown) => say(`${error}`),
          )
          if (mount === undefined) continue
          await using server = mount
          for (const { name, script, count } of questions) {
            const cpu = await server.cpuSeconds()
            const began = performance.now()
            await run('bash', ['-c', `set -o pipefail; ${script}`], {
              env: { ...process.env, M: server.at },
              timeout: 120_000,
            })
            const perSecond = (count * 1000) / (performance.now() - began)
            const figure = { perSecond, cpuSeconds: (await server.cpuSeconds()) - cpu }
            say(`${who}, ${name}: ${perSecond.toFixed(0)} a second, ${figure.cpuSeconds.toFixed(2)} s of CPU`)
            const of = figures.get(name) ?? new Map<string, Figure[]>()
            figures.set(name, of.set(who, [...(of.get(who) ?? []), figure]))
          }
        }
    record('figures', Object.fromEntries([...figures].map(([name, of]) => [name, Object.fromEntries(of)])))
    return [...figures].flatMap(([name, of]) => rows(name, of.get('ours') ?? [], of.get('fuse-native') ?? []))
  },
}

function rows(name: string, ours: readonly Figure[], theirs: readonly Figure[]) {
  const common = { product: 'our server', peer: 'fuse-native' }
  return [
    judge({
      ...common,
      goal: name,
      ratios: theirs.map(({ perSecond }, n) => ours[n]!.perSecond / perSecond),
      target: { atLeast: 1 },
    }),
    // In ticks of 10 ms, of which there is at least half a one.
    judge({
      ...common,
      goal: `${name}: CPU`,
      ratios: theirs.map(({ cpuSeconds }, n) => (ours[n]!.cpuSeconds + 0.005) / (cpuSeconds + 0.005)),
      target: { atMost: 1 },
    }),
  ]
}

async function mounted(who: string, at: string) {
  await mkdir(at)
  const child = spawn(process.execPath, [path.join(HERE, 'memory-mount.ts'), who, at], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'close')
  if ((await Promise.race([once(child.stdout, 'data'), ended.then(() => undefined)])) === undefined)
    throw new Error(`${who} did not mount`)
  return {
    at,
    async cpuSeconds() {
      const text = await readFile(`/proc/${child.pid}/stat`, 'utf8')
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
      return (Number(fields[11]) + Number(fields[12])) / 100
    },
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM')
      await ended
    },
  }
}
