/** `files` over a real repository, its guests in memory: which volume a path is of, what is shown, and how it ends. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { after, before, suite, test } from 'node:test'
import { LifeboatError } from '../../src/core/errors.ts'
import type { DirectoryNode } from '../../src/files/file-tree.ts'
import { type Described, directory, file, special, symlink } from '../../src/files/memory-tree.ts'
import { type Answer, type CommandLine, commandLine } from '../doubles/command-line.ts'
import { guestDisk, type MemoryVolume, memoryGuests } from '../doubles/memory-guest.ts'

const JUNE = BigInt(Date.UTC(2026, 5, 1)) * 1_000_000n
const at = (modifiedNs: bigint) => ({ modifiedNs, changedNs: modifiedNs })

const etc = (hosts: Described, extra: Record<string, Described> = {}) =>
  directory({
    hosts,
    fstab: file('UUID=1 / ext4\n', { ...at(JUNE + 123_456_789n), permissions: 0o640, uid: 0, gid: 42, inode: 500n }),
    localtime: symlink('/usr/share/zoneinfo/UTC'),
    ...extra,
  })

const root = (hosts: Described, extra: Record<string, Described> = {}): Record<string, Described> => ({
  bin: symlink('usr/bin'),
  etc: etc(hosts, extra),
  usr: directory({ bin: directory({ env: file('#!', { permissions: 0o4755 }) }) }),
  dev: directory({ null: special('character-device', { device: { major: 1, minor: 3 } }) }),
  srv: directory({
    'big.sql': file(Buffer.alloc(3000, 1), at(JUNE)),
    'small.sql': file('s', at(JUNE * 2n)),
    'bad\udc80\n\u202ename': file('x'),
  }),
})

const boot: MemoryVolume = {
  name: 'vda-p1',
  disk: 'vda',
  type: 'vfat',
  label: 'EFI',
  entries: { EFI: directory({}), both: file('1') },
}
const first: readonly MemoryVolume[] = [
  boot,
  {
    name: 'vda-p2',
    disk: 'vda',
    label: 'root',
    entries: { ...root(file('one', { inode: 70n, ...at(JUNE) })), both: file('2') },
  },
  { name: 'vda-p3', disk: 'vda', type: 'swap', state: 'nothing' },
  { name: 'vdb-whole', disk: 'vdb', entries: { data: file('d') } },
]
const second: readonly MemoryVolume[] = [
  boot,
  {
    name: 'vda-p2',
    disk: 'vda',
    label: 'root',
    entries: root(file('two!', { inode: 71n, ...at(JUNE + 1n) }), { new: file('n') }),
  },
  ...first.slice(2),
]
const locked: readonly MemoryVolume[] = [
  { name: 'vda-p1', disk: 'vda', entries: { found: file('f') } },
  { name: 'vda-p2', disk: 'vda', type: 'crypto_LUKS', key: 'open sesame', entries: { secret: file('s') } },
]
const broken: readonly MemoryVolume[] = [
  { name: 'vda-p1', disk: 'vda', entries: { good: file('g'), harmed: directory({ lost: file('l') }) } },
]

suite('files of guests', () => {
  let cli: CommandLine
  const guests = memoryGuests({ first, second, locked, broken }, tree => ({ ...tree, root: harmed(tree.root) }))
  const points: Record<string, string> = {}

  before(async () => {
    cli = commandLine({}, { guests: { reader: guests.open } })
    const repo = cli.at('repo')
    cli.environment.LIFEBOAT_REPO = repo
    cli.environment.LIFEBOAT_KEY_FILE = cli.at('key')
    await ok(cli.json('init'))
    await writeFile(cli.at('vdb.raw'), guestDisk('data'))
    for (const [vm, ...disks] of [
      ['web', 'first', 'first', 'second'],
      ['vault', 'locked'],
      ['ill', 'broken'],
    ] as const)
      for (const disk of disks) {
        await writeFile(cli.at('vda.raw'), guestDisk(disk))
        const words = `backup ${vm} --image vda=${cli.at('vda.raw')} --image vdb=${cli.at('vdb.raw')}`
        const { point } = await ok(cli.json(words))
        points[`${vm} ${disk}`] = point
      }
  })
  after(async () => {
    await cli[Symbol.asyncDispose]()
  })

  test('ls of a point lists its volumes, of a path what lies there, with all that is known of it', async () => {
    const { volumes } = await ok(cli.json('files ls web@latest'))
    assert.deepEqual(names(volumes), ['vda-p1', 'vda-p2', 'vda-p3', 'vdb-whole'])
    const table = await cli.run('files ls web@latest')
    assert.match(table.stdout, /^VOLUME +TYPE +SIZE +LABEL +STATE/m)
    assert.match(table.stdout, /^vda-p3 +swap .*nothing/m)

    const { entries } = await ok(cli.json('files ls web@latest:/etc'))
    assert.deepEqual(names(entries), ['fstab', 'hosts', 'localtime', 'new'])
    assert.deepEqual(pick(entries[0], ['path', 'kind', 'size', 'modifiedAt', 'mode', 'uid', 'gid', 'inode']), {
      path: '/etc/fstab',
      kind: 'file',
      size: 14,
      modifiedAt: '2026-06-01T00:00:00.123456789Z',
      mode: '0640',
      uid: 0,
      gid: 42,
      inode: '500',
    })
    assert.equal(entries[2]?.target, '/usr/share/zoneinfo/UTC')
    const people = await cli.run('files ls web@latest:/etc')
    assert.match(people.stdout, /^-rw-r----- +1 +0 +42 +14 2026-06-01T00:00:00Z fstab$/m)
    assert.match(people.stdout, /localtime -> \/usr\/share\/zoneinfo\/UTC$/m)
    assert.match((await cli.run('files ls web@latest:/dev/null')).stdout, /^c.* 1, 3 .* null$/m)
  })

  test('names that are no text are escaped for people and for programs', async () => {
    const { stdout } = await cli.run('files ls web@latest:/srv')
    assert.match(stdout, /bad\\200\\n\\342\\200\\256name$/m)
    const answer = await cli.json('files ls web@latest:/srv')
    assert.match(answer.stdout, /bad\\udc80\\n/)
    assert.equal((await ok(Promise.resolve(answer))).entries[0]?.name.length, 'bad.\n.name'.length)
  })

  test('a path is of the volume that is named, or of the only one that holds it; links on the way are followed', async () => {
    for (const words of ['web@latest', 'web@latest/vda/p2', 'web@latest/vda-p2']) {
      const { entries } = await ok(cli.json(`files ls ${words}:/bin/env`))
      assert.deepEqual([entries[0]?.path, entries[0]?.mode], ['/usr/bin/env', '4755'])
    }
    assert.deepEqual(names((await ok(cli.json('files ls web@latest/vdb:/'))).entries), ['data'])
    const root = await fails(cli.json('files ls web@latest:/'), 2, 'ambiguous', /vda-p1 \(vfat EFI\), vda-p2/)
    assert.match(root.error.hint ?? '', /POINT\/vda\/p1:\//)
    await fails(cli.json('files ls web@latest/vda:/'), 2, 'ambiguous')
    await fails(cli.json('files ls web@latest~1:/both'), 2, 'ambiguous')
    await fails(cli.json('files ls web@latest/vda/p9:/'), 2, 'no-such-volume')
    await fails(cli.json('files ls web@latest/vdz:/'), 2, 'no-such-disk')
    await fails(cli.json('files ls web@latest/vda/p3:/'), 2, 'no-such-volume', /swap/)
  })

  test('a path that is not there says how far it is, and what it may have meant', async () => {
    const { error } = await fails(
      cli.json('files ls web@latest/vda/p2:/etc/fstap'),
      2,
      'no-such-file',
      /\/etc has no fstap/,
    )
    assert.match(error.hint ?? '', /Did you mean fstab\?/)
    await fails(cli.json('files ls web@latest/vda/p2:/etc/fstab/x'), 2, 'no-such-file', /\/etc\/fstab is no directory/)
    await fails(cli.json('files ls web@latest:/nowhere'), 2, 'no-such-file', /not in vda-p1, vda-p2, vdb-whole/)
    await fails(cli.json('files ls web@latest:/etc/*.zip'), 2, 'no-such-file', /matches/)
    await fails(cli.json('files ls web@latest --name x'), 2, 'usage', /--name does not go with files ls/)
    await fails(cli.json('files show web@latest'), 2, 'usage')
    await fails(cli.json('files diff web@latest'), 2, 'usage')
  })

  test('an encrypted volume is locked until its key is given, and hides whether it holds a path', async () => {
    const { volumes } = await ok(cli.json('files ls vault@latest'))
    assert.deepEqual(
      volumes.map(({ state }) => state),
      ['readable', 'locked'],
    )
    assert.match(
      (await fails(cli.json('files ls vault@latest/vda/p2:/'), 2, 'guest-locked')).error.hint ?? '',
      /--guest-key vda-p2=FILE/,
    )
    await fails(cli.json('files ls vault@latest:/secret'), 2, 'guest-locked', /not in vda-p1.*encrypted/)
    const found = await cli.json('files ls vault@latest:/found')
    assert.equal(found.code, 0)
    assert.match(found.stderr, /not looked into.*vda-p2/)

    await writeFile(cli.at('luks'), 'open sesame\n')
    const { entries } = await ok(cli.json(`files ls vault@latest:/secret --guest-key vda-p2=${cli.at('luks')}`))
    assert.deepEqual(names(entries), ['secret'])
    await fails(cli.json('files ls vault@latest --guest-key vda-p2=/nowhere/key'), 2, 'usage', /cannot be read/)
    await fails(cli.json('files ls vault@latest --guest-key vda-p2'), 2, 'usage')
  })

  test('find tells what fits all conditions, over patterns too', async () => {
    const found = async (words: string) => {
      const { entries } = await ok(cli.json(`files find ${words}`))
      return entries.map(({ path }) => path).sort()
    }
    assert.deepEqual(await found('web@latest:/srv --name *.sql'), ['/srv/big.sql', '/srv/small.sql'])
    assert.deepEqual(await found('web@latest:/srv --name *.sql --larger 1KiB'), ['/srv/big.sql'])
    assert.deepEqual(await found('web@latest:/srv --iname BIG* --older 2026-07-01'), ['/srv/big.sql'])
    assert.deepEqual(await found('web@latest:/srv --name *.sql --newer 2026-07-01'), ['/srv/small.sql'])
    assert.deepEqual(await found('web@latest/vda/p2:/ --type l'), ['/bin', '/etc/localtime'])
    assert.deepEqual(await found('web@latest/vda/p2:/{etc,usr/bin}/[ef]*'), ['/etc/fstab', '/usr/bin/env'])
    const lines = await cli.run('files find web@latest:/usr')
    assert.deepEqual(lines.stdout.trim().split('\n'), ['/usr', '/usr/bin', '/usr/bin/env'])
    await fails(cli.json('files find web@latest:/srv --type z'), 2, 'usage')
  })

  test('diff tells what was added, removed and changed; disks that are the same are not opened', async () => {
    const document = await ok(cli.json('files diff web@latest~1 web@latest/vda/p2 /etc'))
    assert.deepEqual(
      document.entries.map(({ change, path, what }) => [change, path, what?.join(' ')]),
      [
        ['changed', '/etc/hosts', 'size modified'],
        ['added', '/etc/new', ''],
      ],
    )
    const { stdout } = await cli.run('files diff web@latest~1 web@latest:/etc')
    assert.equal(stdout, '~ /etc/hosts  (modified, 3 B -> 4 B)\n+ /etc/new\n')
    const only = await ok(cli.json('files diff web@latest~1/vda/p2 web@latest /etc/new'))
    assert.deepEqual(
      only.entries.map(({ change }) => change),
      ['added'],
    )
    guests.asked.length = 0
    const same = await cli.run('files diff web@latest~2 web@latest~1 /')
    assert.deepEqual([same.code, same.stdout], [0, ''])
    assert.match(same.stderr, /the disks of both points are the same/)
    assert.deepEqual(guests.asked, [])
    const other = await ok(cli.json('files diff web@latest~1/vdb web@latest /'))
    assert.deepEqual(other.entries, [])
    await fails(cli.json('files diff web@latest vault@latest /'), 2, 'usage')
    await fails(cli.json('files diff web@latest~1 web@latest /absent'), 2, 'no-such-file')
  })

  test('versions of a file over all points, the newest first; a point whose disks did not change is not opened', async () => {
    guests.asked.length = 0
    const { versions, absent } = await ok(cli.json('files versions web:/etc/hosts'))
    assert.deepEqual(
      versions.map(({ size, points: held }) => [size, held.length]),
      [
        [4, 1],
        [3, 2],
      ],
    )
    assert.equal(versions[0]?.points[0]?.id, points['web second'])
    assert.deepEqual(absent, [])
    assert.equal(guests.asked.filter(asked => asked.startsWith('open')).length, 2)

    const fresh = await ok(cli.json('files versions web/vda/p2:/etc/new'))
    assert.deepEqual([fresh.versions.length, fresh.absent.length], [1, 2])
    const content = await ok(cli.json('files versions web:/etc/fstab --content'))
    assert.deepEqual(
      content.versions.map(({ points: held }) => held.length),
      [3],
    )
    assert.match(content.versions[0]?.digest ?? '', /^[0-9a-f]{64}$/)
    await fails(cli.json('files versions web:/absent'), 2, 'no-such-file')
    await fails(cli.json('files versions nobody:/etc'), 2, 'no-such-vm')
    const vault = await cli.json('files versions vault:/secret')
    assert.equal(vault.code, 3, 'what could not be looked into is not absent')
  })

  test('what is damaged inside a guest is named, and the rest is told', async () => {
    const answer = await cli.json('files find ill@latest/vda:/')
    assert.equal(answer.code, 3)
    const { entries, problems } = answer.json as Document
    assert.deepEqual(names(entries), ['/', 'good', 'harmed'])
    assert.deepEqual(problems, [{ path: '/harmed', reason: 'its blocks are broken', code: 'guest-filesystem' }])
    assert.match(answer.stderr, /warning: \/harmed: its blocks are broken/)
  })

  test('the point is pinned while it is read, and nothing is left open', async () => {
    guests.asked.length = 0
    await ok(cli.json('files ls web@latest:/etc'))
    assert.equal(guests.asked.at(-1), 'close')
    const pins = await cli.run('gc --dry-run --json')
    assert.equal(pins.code, 0)
    assert.deepEqual((JSON.parse(pins.stdout) as { standingPins?: unknown }).standingPins ?? [], [])
  })
})

/** 'harmed' cannot be listed. */
function harmed(node: DirectoryNode): DirectoryNode {
  return {
    ...node,
    async *list(options) {
      for await (const batch of node.list(options))
        yield batch.map(entry =>
          entry.name === 'harmed' && entry.node.kind === 'directory'
            ? {
                ...entry,
                node: {
                  ...entry.node,
                  // biome-ignore lint/correctness/useYield: it fails before there is anything to give.
                  async *list() {
                    throw new LifeboatError('guest-filesystem', 'its blocks are broken')
                  },
                },
              }
            : entry,
        )
    },
  }
}

interface Document {
  readonly point: string
  readonly entries: readonly {
    readonly name: string
    readonly path: string
    readonly mode: string
    readonly target?: string
    readonly change?: string
    readonly what?: readonly string[]
  }[]
  readonly volumes: readonly { readonly name: string; readonly state: string }[]
  readonly versions: readonly {
    readonly size: number
    readonly digest?: string
    readonly points: readonly { id: string }[]
  }[]
  readonly absent: readonly unknown[]
  readonly problems: readonly unknown[]
}

async function ok(answer: Promise<Answer>): Promise<Document> {
  const { code, json, stderr } = await answer
  assert.equal(code, 0, stderr)
  return json as Document
}

async function fails(answer: Promise<Answer>, code: number, error: string, message = /./): Promise<Answer> {
  const found = await answer
  assert.deepEqual([found.code, found.error.code], [code, error], found.stderr)
  assert.match(found.error.message ?? '', message)
  return found
}

const names = (list: readonly { readonly name: string }[]): string[] => list.map(({ name }) => name)

const pick = (value: object | undefined, keys: readonly string[]) =>
  Object.fromEntries(Object.entries(value ?? {}).filter(([key]) => keys.includes(key)))
