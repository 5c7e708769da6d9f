/** What tests of bad input share: a small repository behind a command line, and what every refusal has in common. */
import assert from 'node:assert/strict'
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import { systemClock } from '../../src/core/clock.ts'
import { type Random, seededRandom, systemRandom } from '../../src/core/random.ts'
import { parseKeyFile } from '../../src/crypto/key-file.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { type OpenedRepository, openRepository } from '../../src/repository/open.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'
import { type Answer, type CommandLine, commandLine, everythingIn } from './command-line.ts'

export interface SmallRepository extends AsyncDisposable {
  readonly cli: CommandLine
  readonly repo: string
  /** '--repo ... --key-file ...'. */
  readonly at: string
  /** The raw image that was backed up, as it was at each of web1's two points. */
  readonly image: string
  readonly contents: readonly [Buffer, Buffer]
  /** Ids of web1's points, oldest first. */
  readonly points: readonly [string, string]
  /** The repository and what this host remembers, as they were at first. */
  reset(): Promise<void>
  open(): Promise<OpenedRepository>
}

export const noise: Random = seededRandom('bad-input')

/** VM web1 with two points (1 MiB, chunks of 4 KiB) and VM other with one. */
export async function smallRepository(): Promise<SmallRepository> {
  const cli = commandLine()
  const [repo, image] = [cli.at('repo'), cli.at('disk.raw')]
  const at = `--repo ${repo} --key-file ${cli.at('key')}`
  done(await cli.json(`${at} init --chunk-size 4KiB`))
  const older = Buffer.from(noise(1 << 20))
  const newer = Buffer.from(older)
  newer.set(noise(4096 * 12), 4096 * 30)
  const points: string[] = []
  for (const content of [older, newer]) {
    await writeFile(image, content)
    points.push(pointOf(done(await cli.json(`${at} backup web1 --image vda=${image}`))))
  }
  await writeFile(cli.at('other.raw'), noise(200_000))
  done(await cli.json(`${at} backup other --image sda=${cli.at('other.raw')}`))
  await cp(repo, cli.at('good', 'repo'), { recursive: true })
  await cp(cli.at('state'), cli.at('good', 'state'), { recursive: true })
  return {
    cli,
    repo,
    at,
    image,
    contents: [older, newer],
    points: [points[0] ?? '', points[1] ?? ''],
    async reset() {
      for (const name of ['repo', 'state']) {
        await rm(cli.at(name), { recursive: true, force: true })
        await cp(cli.at('good', name), cli.at(name), { recursive: true })
      }
    },
    async open() {
      const secret = parseKeyFile(await readFile(cli.at('key'), 'utf8'), 'key')
      const credential = { kind: 'file', secret } as const
      const common = { clock: systemClock, random: systemRandom, host: 'test', pipeline: twinPipeline }
      return await openRepository({ ...common, store: filesystemStore(repo), credential })
    },
    [Symbol.asyncDispose]: () => cli[Symbol.asyncDispose](),
  }
}

export function done(answer: Answer): Answer {
  assert.equal(answer.code, 0, `${answer.stdout}${answer.stderr}`)
  return answer
}

export function pointOf({ json }: Answer): string {
  assert.ok(typeof json === 'object' && json !== null && 'point' in json && typeof json.point === 'string')
  return json.point
}

export interface Refusal {
  readonly exit: number
  readonly code: string
  readonly message?: RegExp
  readonly object?: string
}

/** A message, what to do, the right codes, no stack. */
export function refused(answer: Answer, { exit, code, message, object }: Refusal): void {
  const { error, stderr } = answer
  const told = `${answer.stdout}${stderr}`
  assert.deepEqual([answer.code, error.code], [exit, code], told)
  const failure = stderr.replace(/^(?:warning: .*\n)+/, '')
  assert.ok(error.message && failure.startsWith(`lifeboat: ${error.message}`), told)
  assert.ok(error.hint && stderr.includes(`what to do: ${error.hint}`), `no hint: ${told}`)
  assert.doesNotMatch(stderr, /^\s+at /m)
  if (message) assert.match(error.message, message)
  if (object !== undefined) assert.equal(error.object, object)
}

/** The same, and nothing in the folder has changed. Folders within a repository count as nothing: objects are what is in them. */
export async function refusedWithoutTrace(dir: string, run: () => Promise<Answer>, refusal: Refusal): Promise<Answer> {
  const before = await files(dir)
  const answer = await run()
  refused(answer, refusal)
  assert.deepEqual(await files(dir), before, `${refusal.code} left something behind`)
  return answer
}

const WITHIN = /(^|\/)(leases|pins|fences|points|forgotten|packs|meta|probe|index|claims|state)(\/|$)/

const files = async (dir: string): Promise<Record<string, string>> =>
  Object.fromEntries(
    Object.entries(await everythingIn(dir)).filter(([name, what]) => !what.startsWith('folder') || !WITHIN.test(name)),
  )
