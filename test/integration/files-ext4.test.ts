/** `files` through the real command line: an ext4 filesystem of its own tools, read by the sandboxed reader. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises'
import { after, before, suite, test } from 'node:test'
import { READER_PROGRAM } from '../../src/guest/guest-programs.ts'
import { type CommandLine, commandLine } from '../doubles/command-line.ts'
import { shell } from '../guest/tool.ts'

const skip = existsSync(READER_PROGRAM)
  ? process.getuid?.() === 0
    ? false
    : 'needs root, so that owners can be set'
  : 'needs the reader of guests, which the set-up builds where libext2fs and libtsk are'

const TREE = `
  mkdir -p "$1/etc" "$1/srv/data" "$1/usr/bin"
  echo 'UUID=1 / ext4' > "$1/etc/fstab"; chmod 640 "$1/etc/fstab"; chown 1234:4321 "$1/etc/fstab"
  head -c 3000000 /dev/urandom > "$1/srv/data/big"; ln "$1/srv/data/big" "$1/srv/data/again"
  printf '#!' > "$1/usr/bin/tool"; chmod 4755 "$1/usr/bin/tool"; ln -s usr/bin "$1/bin"
  printf 'start' > "$1/srv/sparse"; truncate -s 20M "$1/srv/sparse"; printf 'end' >> "$1/srv/sparse"
  printf 'x' > "$1/srv/$(printf 'bad\\377name')"
  touch -d '2026-06-01 UTC' "$1/etc/fstab" "$1/srv/data/big" "$1/srv/sparse"`
const IMAGE = 'truncate -s 48M "$2"; mkfs.ext4 -q -F -d "$1" "$2"'
/** As the guest would have done between two backups: a file is changed, one is new. */
const LATER =
  'echo "UUID=2 / ext4 changed" > "$2"; debugfs -w -R "rm /etc/fstab" "$1"; debugfs -w -R "write $2 etc/fstab" "$1"; debugfs -w -R "write $2 etc/new" "$1"'

suite('files of an ext4 filesystem', { skip }, () => {
  let cli: CommandLine

  before(async () => {
    cli = commandLine()
    cli.environment.LIFEBOAT_REPO = cli.at('repo')
    cli.environment.LIFEBOAT_KEY_FILE = cli.at('key')
    await mkdir(cli.at('tree'))
    await shell(TREE, cli.at('tree'))
    await shell(IMAGE, cli.at('tree'), cli.at('vda.raw'))
    await done('init')
    await done(`backup web --image vda=${cli.at('vda.raw')}`)
    await shell(`(${LATER}) 2>&1`, cli.at('vda.raw'), cli.at('later'))
    await done(`backup web --image vda=${cli.at('vda.raw')}`)
  })
  after(async () => {
    await cli[Symbol.asyncDispose]()
  })

  const done = async (words: string, code = 0) => {
    const answer = await cli.json(words)
    assert.equal(answer.code, code, answer.stderr)
    return answer.json as Document
  }

  test('a whole tree comes back as it was', async () => {
    const document = await done(`files get web@latest~1:/ --output ${cli.at('all')} --setuid`)
    assert.equal(document.hardLinks, 1)
    await shell('rmdir "$1/lost+found"; diff -r --no-dereference "$2" "$1"', cli.at('all'), cli.at('tree'))
    const list =
      'cd "$1"; find . -mindepth 1 ! -type d -printf "%p %y %m %U %G %s %n %T@ %l\\n" | sed "s/\\.0* / /" | sort'
    assert.equal(await shell(list, cli.at('all')), await shell(list.replace('%T@', '%Ts'), cli.at('tree')))
    assert.match(await shell('du -k "$1/srv/sparse"', cli.at('all')), /^[0-9]{1,2}\t/, 'holes stay holes')
    await done(`files get web@latest~1:/ --output ${cli.at('all.tar')} --setuid`)
    await mkdir(cli.at('tar'))
    await shell('tar -C "$1" -xpf "$2" --numeric-owner; rmdir "$1/lost+found"', cli.at('tar'), cli.at('all.tar'))
    await shell('diff -r --no-dereference "$2" "$1"', cli.at('tar'), cli.at('tree'))
    assert.equal(await shell(list, cli.at('tar')), await shell(list.replace('%T@', '%Ts'), cli.at('tree')))
  })

  test('a file is found, shown, compared and followed over points', async () => {
    const found = await done('files find web@latest:/ --name *tab --type f')
    assert.deepEqual(
      found.entries?.map(({ path }) => path),
      ['/etc/fstab'],
    )
    const listed = await done('files ls web@latest~1:/bin/tool')
    assert.deepEqual([listed.entries?.[0]?.path, listed.entries?.[0]?.mode], ['/usr/bin/tool', '4755'])
    assert.match((await cli.json('files ls web@latest:/srv')).stdout, /bad\\udcffname/)
    const changed = await done('files diff web@latest~1 web@latest /etc')
    assert.deepEqual(
      changed.entries?.map(({ change, path }) => `${change} ${path}`),
      ['changed /etc/fstab', 'added /etc/new'],
    )
    const { versions } = await done('files versions web:/etc/fstab')
    assert.deepEqual(
      versions?.map(({ size }) => size),
      [22, 14],
    )
  })

  test('another user than root is told which owners could not be set', async () => {
    await shell(
      'chmod -R a+rX "$1"; chmod 644 "$2"; mkdir -m 777 "$3" "$4"',
      cli.at('repo'),
      cli.at('key'),
      cli.at('theirs'),
      cli.at('state2'),
    )
    await chmod(cli.dir, 0o755)
    const words = ['--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, 'bin/lifeboat.mjs', '--json']
    const env = { ...process.env, ...cli.environment, LIFEBOAT_STATE_DIR: cli.at('state2') }
    const answer = runAs([...words, 'files', 'get', 'web@latest~1:/etc', '--output', cli.at('theirs')], env)
    assert.equal(answer.code, 3, answer.stderr)
    const { problems = [] } = JSON.parse(answer.stdout) as Document
    assert.ok(
      problems.some(({ kind, path }) => kind === 'not-set' && path === 'etc/fstab'),
      answer.stdout,
    )
    assert.equal(await readFile(cli.at('theirs', 'etc/fstab'), 'utf8'), 'UUID=1 / ext4\n')
  })

  test('a volume without a filesystem says so', async () => {
    await writeFile(cli.at('empty.raw'), Buffer.alloc(1 << 20, 0xa5))
    await done(`backup empty --image vda=${cli.at('empty.raw')}`)
    const { volumes } = await done('files ls empty@latest')
    assert.ok(volumes?.every(({ state }) => state !== 'readable'))
    assert.notEqual((await cli.json('files ls empty@latest:/')).code, 0)
  })
})

function runAs(words: readonly string[], env: NodeJS.ProcessEnv): { code: number; stdout: string; stderr: string } {
  try {
    const stdout = execFileSync('setpriv', words, { env, encoding: 'utf8', stdio: 'pipe', timeout: 60_000 })
    return { code: 0, stdout, stderr: '' }
  } catch (error) {
    const { status = -1, stdout = '', stderr = '' } = error as { status?: number; stdout?: string; stderr?: string }
    return { code: status, stdout, stderr }
  }
}

interface Document {
  readonly hardLinks?: number
  readonly entries?: readonly { readonly path: string; readonly mode: string; readonly change?: string }[]
  readonly versions?: readonly { readonly size: number }[]
  readonly volumes?: readonly { readonly state: string }[]
  readonly problems?: readonly { readonly kind: string; readonly path: string }[]
}
