/**
 * One tree in memory through our server and through fuse-native, looked at by other processes. Each is mounted afresh for every
 * round and has served other files of the tree before it is measured, since a mount serves for days: until V8 has compiled it, ours
 * takes three times the CPU for small requests. They take turns in who comes first.
 */
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { type Goal, judge } from './goal.ts'
import { ENTRIES, FOLDERS, IMAGE_BYTES } from './memory-mount.ts'
import { type MountProcess, mounted } from './mount-process.ts'
import { run } from './tools.ts'

const HERE = import.meta.dirname
/** fuse-native as it is without a word on extended attributes is for the listing alone: ours has to answer, as of a guest's files. */
const SERVERS = ['ours', 'fuse-native', 'fuse-native-without-xattrs'] as const
const WARM = 3
/** What is left of the folders, for stat and for ls, of the same length each. */
const ASKED = FOLDERS / 2 - WARM

interface Question {
  readonly name: string
  /** Bash, with the mount as $M. */
  readonly script: string
  /** How many of what the name says. */
  readonly count: number
}

const folders = (first: number, count: number) =>
  Array.from({ length: count }, (_, i) => `$M/folder-${first + i}`).join(' ')
const fio = (words: string) =>
  `fio --name=x --ioengine=psync --direct=1 --readonly --filename=$M/image --size=${IMAGE_BYTES} --rw=randread --bs=4k --norandommap --randseed=1 ${words} > /dev/null`
const stat = (first: number, count: number): Question => ({
  name: 'stat, cold',
  script: `for folder in ${folders(first, count)}; do cd $folder; printf 'entry-%s\\n' {0..${ENTRIES - 1}} | xargs stat -c %s; done > /dev/null`,
  count: count * ENTRIES,
})
const list = (first: number, count: number): Question => ({
  name: 'ls -l of 5,000 entries',
  script: `for folder in ${folders(first, count)}; do ls -l $folder; done > /dev/null`,
  count: count * ENTRIES,
})
const SEQUENTIAL: readonly Question[] = [
  {
    name: 'sequential reads',
    script: 'dd if=$M/image of=/dev/null bs=1M status=none',
    count: IMAGE_BYTES / 1e6,
  },
  {
    name: 'sequential reads, O_DIRECT',
    script: 'dd if=$M/image of=/dev/null bs=1M iflag=direct status=none',
    count: IMAGE_BYTES / 1e6,
  },
]

const WARMING = [...SEQUENTIAL, stat(0, WARM), list(WARM, WARM)]
const QUESTIONS = [
  stat(2 * WARM, ASKED),
  ...SEQUENTIAL,
  { name: '20,000 random reads, O_DIRECT', script: fio('--number_ios=20000'), count: 20_000 },
  list(2 * WARM + ASKED, ASKED),
]

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
      for (const who of round % 2 === 0 ? SERVERS : SERVERS.toReversed()) {
        const mount = await served(who, path.join(dir, `${who}-${round}`)).catch((error: unknown) => say(`${error}`))
        if (mount === undefined) continue
        await using server = mount
        for (const { script } of WARMING) await ask(server.at, script)
        // What was read goes from the page cache, but not the files' names.
        await ask(server.at, 'dd if=$M/image iflag=nocache count=0 status=none')
        for (const { name, script, count } of QUESTIONS) {
          if (who === 'fuse-native-without-xattrs' && !name.startsWith('ls')) continue
          const cpu = await server.cpuSeconds()
          const began = performance.now()
          await ask(server.at, script)
          const perSecond = (count * 1000) / (performance.now() - began)
          const figure = { perSecond, cpuSeconds: (await server.cpuSeconds()) - cpu }
          say(`${who}, ${name}: ${perSecond.toFixed(0)} a second, ${figure.cpuSeconds.toFixed(2)} s of CPU`)
          const of = figures.get(name) ?? new Map<string, Figure[]>()
          figures.set(name, of.set(who, [...(of.get(who) ?? []), figure]))
        }
      }
    record('figures', Object.fromEntries([...figures].map(([name, of]) => [name, Object.fromEntries(of)])))
    return [...figures].flatMap(([name, of]) =>
      SERVERS.slice(1)
        .filter(peer => of.has(peer))
        .flatMap(peer => rows(name, peer, of.get('ours') ?? [], of.get(peer) ?? [])),
    )
  },
}

const ask = (at: string, script: string) =>
  run('bash', ['-c', `set -eo pipefail; ${script}`], { env: { ...process.env, M: at }, timeout: 120_000 })

function rows(name: string, peer: string, ours: readonly Figure[], theirs: readonly Figure[]) {
  const common = { product: 'our server', peer }
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

async function served(who: string, at: string): Promise<MountProcess> {
  await mkdir(at)
  return mounted(process.execPath, at, [path.join(HERE, 'memory-mount.ts'), who, at])
}
