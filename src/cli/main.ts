/**
 * Command line: one file per verb, composed here.
 *
 * What it is: words in, one result out. The contract of names, JSON fields and exit codes is docs/cli.md.
 * What it guarantees: one exit code per outcome (exit-code.ts), errors that say what to do, Ctrl-C that stops cleanly.
 * What it does not know: how anything is done.
 */
import { readFile } from 'node:fs/promises'
import { Command, CommanderError } from 'commander'
import { systemClock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { systemRandom } from '../core/random.ts'
import { keyOptions } from './credentials.ts'
import { exitCode, exitCodeOf } from './exit-code.ts'
import { explained } from './host-files.ts'
import { isHostStopping } from './host-stopping.ts'
import type { Surroundings } from './invocation.ts'
import type { Verb } from './verb.ts'
import { versionText } from './version.ts'

/** Loaded when they are named: all of them take some 20 MiB and 0.3 s of CPU. */
const VERBS: Readonly<Record<string, () => Promise<Verb>>> = {
  init: async () => (await import('./init.ts')).initCommand,
  backup: async () => (await import('./backup.ts')).backupCommand,
  points: async () => (await import('./points.ts')).pointsCommand,
  show: async () => (await import('./show.ts')).showCommand,
  diff: async () => (await import('./diff.ts')).diffCommand,
  restore: async () => (await import('./restore.ts')).restoreCommand,
  export: async () => (await import('./export.ts')).exportCommand,
  boot: async () => (await import('./boot.ts')).bootCommand,
  session: async () => (await import('./session.ts')).sessionCommand,
  mount: async () => (await import('./mount.ts')).mountCommand,
  files: async () => (await import('./files.ts')).filesCommand,
  verify: async () => (await import('./verify.ts')).verifyCommand,
  forget: async () => (await import('./forget.ts')).forgetCommand,
  prune: async () => (await import('./prune.ts')).pruneCommand,
  gc: async () => (await import('./gc.ts')).gcCommand,
  unlock: async () => (await import('./unlock.ts')).unlockCommand,
  policy: async () => (await import('./policy.ts')).policyCommand,
  hold: async () => (await import('./hold.ts')).holdCommand,
  key: async () => (await import('./key.ts')).keyCommand,
  lock: async () => (await import('./lock.ts')).lockCommand,
  log: async () => (await import('./log.ts')).logCommand,
  doctor: async () => (await import('./doctor.ts')).doctorCommand,
}

/** Runs one command line and gives its exit code; never throws. */
export async function run(argv: readonly string[], surroundings: Surroundings): Promise<number> {
  let code: number = exitCode.done
  if (argv[0] === '--version') {
    surroundings.stdout.write(`${await versionText()}\n`)
    return code
  }
  const program = keyOptions(new Command('lifeboat'))
    .description('Protects virtual machines and brings them back in seconds.')
    .option('--version', 'version, repository format and commit')
    .option('--repo <url>', 'repository: a folder, file:///folder or s3://BUCKET/PREFIX?endpoint=URL (LIFEBOAT_REPO)')
    .option('--json', 'one JSON document on stdout')
    .option('--progress', 'with --json: progress as JSON lines')
    .option('--quiet', 'no messages but errors and warnings')
    .option('--config <file>', 'configuration file (LIFEBOAT_CONFIG)')
    .option(
      '--lease-expiry <duration>',
      'when a writer that is not heard of counts as dead (1h, at least 5s)',
      undefined,
    )
    .option('--retry-for <duration>', 'how long a store outage is ridden out (60s)')
    .configureOutput({
      writeOut: text => surroundings.stdout.write(text),
      writeErr: text => surroundings.stderr.write(text),
      outputError: () => {},
    })
    .addHelpText('after', '\nExample:\n  lifeboat --repo /srv/backup points web1')
    .exitOverride()
  try {
    for (const load of verbsIn(argv)) {
      const verb = await load()
      program.addCommand(
        verb(surroundings, outcome => {
          code = outcome
        }).exitOverride(),
      )
    }
    await program.parseAsync(argv, { from: 'user' })
    return code
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return exitCode.done
    const failure =
      error instanceof CommanderError ? wrongWords(error, program, argv) : failureOf(error, surroundings.signal)
    report(failure, surroundings, argv.includes('--json'))
    return exitCodeOf(failure)
  }
}

/** Those whose names occur, the value of an option may be one too; all where help or a complaint is to name them. */
function verbsIn(argv: readonly string[]): readonly (() => Promise<Verb>)[] {
  const named = Object.entries(VERBS).filter(([name]) => argv.includes(name))
  return named.length > 0 ? named.map(([, load]) => load) : Object.values(VERBS)
}

/** What a child process or a socket says when Ctrl-C ends it is not what the person wants to hear. */
const failureOf = (error: unknown, { aborted, reason }: AbortSignal): unknown =>
  aborted && (!isLifeboatError(error) || error.code === 'interrupted') ? reason : explained(error)

/** The parser's complaint, with the help that fits. */
function wrongWords({ code, message }: CommanderError, { commands }: Command, argv: readonly string[]): LifeboatError {
  const names = commands.map(command => command.name())
  // The first: what follows it are its own words.
  const named = argv.find(word => names.includes(word))
  // Without any command it has shown the help already.
  if (code === 'commander.help') return new LifeboatError('usage', 'no command was named', { hint: HELP_HINT })
  return new LifeboatError('usage', message.replace(/^error: /, '').replaceAll('\n', ' '), {
    hint: named ? `\`lifeboat ${named} --help\` shows the words, and an example` : HELP_HINT,
  })
}

const HELP_HINT = '`lifeboat --help` lists the commands, `lifeboat COMMAND --help` shows the words of one'

/** One line of what happened, one of what to do; with --json the same as a document on stdout. */
function report(error: unknown, { stdout, stderr }: Surroundings, json: boolean): void {
  const known = isLifeboatError(error) ? error : undefined
  const { hint, object, point, disk, ranges } = known?.details ?? {}
  const code = known?.code ?? 'internal'
  const message = messageOf(error)
  if (json) stdout.write(`${JSON.stringify({ error: { code, message, hint, object, point, disk, ranges } })}\n`)
  stderr.write(`lifeboat: ${message}\n`)
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
  // A terminal that is closed ends what runs in it in order; what was told to outlive it (nohup) does.
  if (!(await ignoresHangup())) process.on('SIGHUP', interrupted('SIGHUP'))
  const output = watchedOutput()
  const code = await run(process.argv.slice(2), {
    environment: process.env,
    stdout: process.stdout,
    stderr: process.stderr,
    clock: systemClock,
    random: systemRandom,
    signal: stop.signal,
    isHostStopping,
  })
  // A result that reached nobody is no success: `lifeboat points > file` on a full disk.
  process.exitCode = code === exitCode.done && output.failure() ? exitCode.failed : code
}

/** Whoever started this process has set SIGHUP, number 1, to be ignored: the lowest bit of the mask. */
async function ignoresHangup(): Promise<boolean> {
  const status = await readFile('/proc/self/status', 'utf8').catch(() => '')
  return /^SigIgn:\s*[0-9a-f]*[13579bdf]$/m.test(status)
}

/**
 * A reader that has gone (`lifeboat points | head -1`) wanted no more, and the work goes on: the guest of `boot` does not end
 * with its terminal. Any other failure of stdout is told.
 */
function watchedOutput(): { failure(): Error | undefined } {
  let failure: Error | undefined
  process.stderr.on('error', () => {})
  process.stdout.on('error', error => {
    if (failure || ('code' in error && error.code === 'EPIPE')) return
    failure = error
    process.exitCode = exitCode.failed
    process.stderr.write(`lifeboat: the result cannot be written: ${messageOf(error)}\n`)
  })
  return { failure: () => failure }
}

if (import.meta.main) await main()
