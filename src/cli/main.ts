/**
 * Command line: one file per verb, composed here.
 *
 * What it is: words in, one result out. The contract of names, JSON fields and exit codes is docs/cli.md.
 * What it guarantees: one exit code per outcome (exit-code.ts), errors that say what to do, Ctrl-C that stops cleanly.
 * What it does not know: how anything is done.
 */
import { Command, CommanderError } from 'commander'
import { systemClock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { systemRandom } from '../core/random.ts'
import { backupCommand } from './backup.ts'
import { bootCommand } from './boot.ts'
import { diffCommand } from './diff.ts'
import { doctorCommand } from './doctor.ts'
import { exitCode, exitCodeOf } from './exit-code.ts'
import { exportCommand } from './export.ts'
import { initCommand } from './init.ts'
import type { Surroundings } from './invocation.ts'
import { pointsCommand } from './points.ts'
import { restoreCommand } from './restore.ts'
import { sessionCommand } from './session.ts'
import { showCommand } from './show.ts'
import type { Verb } from './verb.ts'
import { verifyCommand } from './verify.ts'
import { versionText } from './version.ts'

const VERBS: readonly Verb[] = [
  initCommand,
  backupCommand,
  pointsCommand,
  showCommand,
  diffCommand,
  restoreCommand,
  exportCommand,
  bootCommand,
  sessionCommand,
  verifyCommand,
  doctorCommand,
]

/** Runs one command line and gives its exit code; never throws. */
export async function run(argv: readonly string[], surroundings: Surroundings): Promise<number> {
  let code: number = exitCode.done
  if (argv[0] === '--version') {
    surroundings.stdout.write(`${await versionText()}\n`)
    return code
  }
  const program = new Command('lifeboat')
    .description('Protects virtual machines and brings them back in seconds.')
    .option('--version', 'version, repository format and commit')
    .option('--repo <url>', 'repository: a folder, file:///folder or s3://BUCKET/PREFIX?endpoint=URL (LIFEBOAT_REPO)')
    .option('--key-file <file>', 'key of an encrypted repository (LIFEBOAT_KEY_FILE; or LIFEBOAT_PASSPHRASE)')
    .option('--json', 'one JSON document on stdout')
    .option('--progress', 'with --json: progress as JSON lines')
    .option('--quiet', 'no messages but errors and warnings')
    .option('--config <file>', 'configuration file (LIFEBOAT_CONFIG)')
    .option('--lease-expiry <duration>', 'for tests: when a writer counts as dead, at least 5s', undefined)
    .option('--retry-for <duration>', 'how long a store outage is ridden out (60s)')
    .configureOutput({
      writeOut: text => surroundings.stdout.write(text),
      writeErr: text => surroundings.stderr.write(text),
    })
    .addHelpText('after', '\nExample:\n  lifeboat --repo /srv/backup points web1')
    .exitOverride()
  for (const verb of VERBS)
    program.addCommand(
      verb(surroundings, outcome => {
        code = outcome
      }).exitOverride(),
    )
  try {
    await program.parseAsync(argv, { from: 'user' })
    return code
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCode.done : exitCode.usage
    report(error, surroundings, argv.includes('--json'))
    return exitCodeOf(surroundings.signal.aborted && !isLifeboatError(error) ? surroundings.signal.reason : error)
  }
}

/** One line of what happened, one of what to do; with --json the same as a document on stdout. */
function report(error: unknown, { stdout, stderr }: Surroundings, json: boolean): void {
  const known = isLifeboatError(error)
  const hint = known ? error.details.hint : undefined
  const code = known ? error.code : 'internal'
  if (json)
    stdout.write(
      `${JSON.stringify({ error: { code, message: messageOf(error), hint, object: known ? error.details.object : undefined } })}\n`,
    )
  stderr.write(`lifeboat: ${messageOf(error)}\n`)
  if (hint) stderr.write(`  what to do: ${hint}\n`)
  if (!known && error instanceof Error) stderr.write(`${error.stack}\n`)
}

/** The program: bin/lifeboat.mjs calls it, so that a newer Node needs no second process. */
export async function main(): Promise<void> {
  const stop = new AbortController()
  const interrupted = (name: string) => () =>
    stop.abort(new LifeboatError('interrupted', `stopped by ${name}`, { details: { signal: name } }))
  process.on('SIGINT', interrupted('SIGINT'))
  process.on('SIGTERM', interrupted('SIGTERM'))
  process.exitCode = await run(process.argv.slice(2), {
    environment: process.env,
    stdout: process.stdout,
    stderr: process.stderr,
    clock: systemClock,
    random: systemRandom,
    signal: stop.signal,
  })
}

if (import.meta.main) await main()
