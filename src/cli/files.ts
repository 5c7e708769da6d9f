import type { Command } from 'commander'
import { LifeboatError } from '../core/errors.ts'
import { type DiffFlags, diffFiles } from './files-diff.ts'
import { type FindFlags, findFiles } from './files-find.ts'
import { type GetFlags, getFiles } from './files-get.ts'
import { type ListFlags, listFiles } from './files-ls.ts'
import { placesOf } from './files-place.ts'
import { fileVersions, type VersionFlags } from './files-versions.ts'
import { type GuestFlags, guestOptions, hostGuests, type OpenChosenGuest } from './guests.ts'
import type { Invocation } from './invocation.ts'
import { type LiveReadFlags, type LiveRepository, liveReadOptions, openForLiveReads } from './live-reads.ts'
import { openFiles } from './open-files.ts'
import { pointToRead } from './suspect-points.ts'
import { verb } from './verb.ts'

interface Flags extends LiveReadFlags, GuestFlags, ListFlags, FindFlags, GetFlags, DiffFlags, VersionFlags {}

export const filesCommand = verb<Flags>({
  syntax: 'files <action> [places...]',
  description:
    'Files inside the disks of a point, without a mount. ls POINT: its volumes; ls POINT:/path: a directory; ' +
    'find POINT:/path: what lies below, by name, kind, time and size; ' +
    'get POINT:/path --output DIR|FILE.tar|-: files and directories with all that belongs to them; ' +
    'diff POINT POINT PATH: what changed between two points; versions VM:/path: the versions of one file over all points. ' +
    'A path is POINT:/path; with several volumes POINT/DISK/p2:/path, where only one of them holds it that need not be said.',
  examples: [
    '--repo /srv/backup files ls web1@latest',
    '--repo /srv/backup files ls web1@latest:/etc',
    "--repo /srv/backup files find web1@2026-11-21T10:00/vda/p2:/srv --name '*.sql' --larger 1MiB",
    '--repo /srv/backup files get web1@latest:/etc/fstab --output /root/restored',
    "--repo /srv/backup files get 'web1@latest:/srv/**/*.sql' --output - --format tar | ssh db1 tar -x",
    '--repo /srv/backup files diff web1@latest~1 web1@latest /etc',
    '--repo /srv/backup files versions web1:/etc/fstab',
  ],
  options: command => ownOptions(guestOptions(liveReadOptions(command))),
  async run(invocation, [action = '', ...words], flags) {
    const wanted = ACTIONS[action]
    if (!wanted)
      throw new LifeboatError('usage', `files ${action} is not known`, {
        hint: `${Object.keys(ACTIONS).join(', ')} are`,
      })
    refuseOthers(action, wanted.flags, flags)
    const [least, most] = wanted.words
    if (words.length < least || words.length > most)
      throw new LifeboatError('usage', `files ${action} ${words.length < least ? 'needs more' : 'takes fewer'} words`, {
        hint: `lifeboat files ${action} ${wanted.usage}`,
      })
    const guests = await hostGuests(invocation, flags)
    await using repository = await openForLiveReads(invocation, flags)
    return await wanted.run({ invocation, repository, guests }, words, flags)
  },
})

interface Context {
  readonly invocation: Invocation
  readonly repository: LiveRepository
  readonly guests: OpenChosenGuest
}

interface Action {
  readonly usage: string
  readonly words: readonly [least: number, most: number]
  /** Its own; a flag of another action is a mistake that is told. */
  readonly flags: readonly (keyof Flags)[]
  run(context: Context, words: readonly string[], flags: Flags): Promise<number>
}

const ANY = Number.POSITIVE_INFINITY

const ACTIONS: Readonly<Record<string, Action>> = {
  ls: {
    usage: 'POINT, or POINT:/path ...',
    words: [1, ANY],
    flags: ['recursive'],
    run: (context, words, flags) => withPlaces(context, words, 'ls', flags, listFiles),
  },
  find: {
    usage: 'POINT:/path ... [--name GLOB] [--type f] [--newer TIME] [--larger SIZE]',
    words: [1, ANY],
    flags: ['name', 'iname', 'type', 'newer', 'older', 'larger', 'smaller'],
    run: (context, words, flags) => withPlaces(context, words, 'find', flags, findFiles),
  },
  get: {
    usage: 'POINT:/path ... --output DIR|FILE.tar|-',
    words: [1, ANY],
    flags: ['output', 'format', 'devices', 'setuid', 'force'],
    run: (context, words, flags) => withPlaces(context, words, 'get', flags, getFiles),
  },
  diff: {
    usage: 'POINT POINT [/path]',
    words: [2, 3],
    flags: ['content'],
    run: ({ invocation, repository, guests }, words, flags) => diffFiles(invocation, repository, guests, words, flags),
  },
  versions: {
    usage: 'VM:/path',
    words: [1, 1],
    flags: ['content'],
    run: ({ invocation, repository, guests }, [text = ''], flags) =>
      fileVersions(invocation, repository, guests, text, flags),
  },
}

const ownOptions = (command: Command): Command =>
  command
    .option('--recursive', 'of ls: all that lies below')
    .option('--name <glob>', "of find: names like this, '*.conf'")
    .option('--iname <glob>', 'of find: the same, capital or not')
    .option('--type <letter>', 'of find: f (file), d (directory), l (link), p, s, c or b')
    .option('--newer <time>', 'of find: modified since (2026-11-21T10:00, of this host, or 7d ago)')
    .option('--older <time>', 'of find: modified before')
    .option('--larger <size>', 'of find: files of more than this')
    .option('--smaller <size>', 'of find: files of less than this')
    .option(
      '--output <path>',
      'of get: a folder (made where there is none), FILE.tar, or - for stdout: the bytes of one file, else a tar',
    )
    .option('--format <format>', 'of get: tar, whatever the output is called')
    .option('--devices', 'of get: device nodes too')
    .option('--setuid', 'of get: setuid and setgid bits and capabilities too')
    .option('--force', 'of get: replace files that are there')
    .option('--content', 'of diff and versions: compare contents too, which are read')

function refuseOthers(action: string, own: readonly (keyof Flags)[], flags: Flags): void {
  const all = Object.values(ACTIONS).flatMap(other => other.flags)
  const wrong = all.find(name => flags[name] !== undefined && !own.includes(name))
  if (wrong === undefined) return
  const theirs = Object.entries(ACTIONS).filter(([, other]) => other.flags.includes(wrong))
  throw new LifeboatError('usage', `--${wrong} does not go with files ${action}`, {
    hint: `It goes with files ${theirs.map(([name]) => name).join(' and ')}.`,
  })
}

/** One point is opened for all places. */
async function withPlaces(
  { invocation, repository, guests }: Context,
  words: readonly string[],
  action: string,
  flags: Flags,
  work: (
    invocation: Invocation,
    opened: Awaited<ReturnType<typeof openFiles>>,
    places: ReturnType<typeof placesOf>,
    flags: Flags,
  ) => Promise<number>,
): Promise<number> {
  const places = placesOf(words, action)
  const { point } = await pointToRead(invocation, repository, words[0] ?? '')
  await using opened = await openFiles(invocation, repository, point, guests)
  return await work(invocation, opened, places, flags)
}
