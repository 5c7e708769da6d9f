/** `--trust-guest`: what this host's kernel mounts is what was written, the rest is the appliance's, and nothing is left behind. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import { systemClock } from '../../src/core/clock.ts'
import { mountTree } from '../../src/fuse/mount.ts'
import type { GuestFilesystems } from '../../src/guest/guest-filesystems.ts'
import { AGENT_PROGRAM } from '../../src/guest/guest-programs.ts'
import { kernelGuests } from '../../src/guest/kernel-guests.ts'
import { type CommandLine, commandLine } from '../doubles/command-line.ts'
import { openDisks } from '../doubles/guest-matrix.ts'
import { isMounted, mountProcess } from '../doubles/mount-process.ts'
import { compareTree } from '../doubles/tree-compare.ts'
import { UNIX } from '../guest/guest-layouts.ts'
import { referenceTree } from '../guest/reference-tree.ts'
import { tarOf } from '../guest/tar-of-truth.ts'
import { shell } from '../guest/tool.ts'

/** A reason to skip, or false. */
function impossible(): string | false {
  if (process.getuid?.() !== 0) return 'mounts of the kernel need root'
  if (!existsSync(AGENT_PROGRAM)) return 'needs the agent, which the set-up builds'
  const drivers = readFileSync('/proc/filesystems', 'utf8')
  return drivers.includes('\text4\n') ? false : "this host's kernel has no ext4"
}

/** Holds the reference tree. Dirty: copied while it was mounted and written to. */
async function image(path: string, { isDirty = false } = {}): Promise<void> {
  const folder = `${path}.mounted`
  await mkdir(folder)
  await shell('truncate -s 64M "$1"; mkfs.ext4 -q -F "$1"; mount -o loop "$1" "$2"', path, folder)
  try {
    const words = ['-x', '-p', '-C', folder, '--numeric-owner', '--xattrs', '--xattrs-include=*', '--acls']
    execFileSync('tar', words, { input: tarOf(referenceTree()), stdio: ['pipe', 'ignore', 'ignore'] })
    if (isDirty)
      await shell(
        'umount "$2"; mount -o loop "$1" "$2"; echo late > "$2/late"; sync -f "$2"; cp --sparse=always "$1" "$1.dirty"',
        path,
        folder,
      )
  } finally {
    await shell('umount "$1"', folder)
  }
  if (isDirty) await shell('mv "$1.dirty" "$1"', path)
}

/** ext4 and the beginning of a LUKS volume, each in a partition of a GPT. */
const DISK = `truncate -s 80M "$1"
  sgdisk -n 1:0:+64M -n 5:0:+8M "$1" > /dev/null
  dd if="$2" of="$1" bs=1M seek=1 conv=notrunc,sparse status=none
  printf 'LUKS\\272\\276\\000\\001' | dd of="$1" bs=1M seek=65 conv=notrunc status=none`

/** Names of loop devices that read files below `folder`. */
const loopsOf = (folder: string): readonly string[] =>
  readdirSync('/sys/block').filter(name => backingOf(name)?.startsWith(`${folder}/`))

function backingOf(loop: string): string | undefined {
  try {
    return readFileSync(`/sys/block/${loop}/loop/backing_file`, 'utf8').trim()
  } catch {
    return undefined
  }
}

/** Of these, those that still read a disk of ours: what was unmounted below a device has lost its folder. */
const stillRead = (loops: readonly string[]): readonly string[] =>
  loops.filter(name => /^\/(\d+\.raw|.*\/disks\/\d+\.raw)$/.test(backingOf(name) ?? ''))

/** Agents of this process' folders: their environment names them. */
const agentsOf = (mark: string): readonly string[] =>
  readdirSync('/proc').filter(pid => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/environ`, 'latin1').includes(mark)
    } catch {
      return false
    }
  })

suite('guests that are trusted', { skip: impossible() }, () => {
  let folder = ''
  const at = (name: string) => join(folder, name)

  before(async () => {
    folder = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'trust-guest-'))
    await image(at('ext4'))
    await image(at('dirty'), { isDirty: true })
    await shell(DISK, at('vda'), at('ext4'))
  })
  after(() => rm(folder, { recursive: true }))

  const opened = async (names: readonly string[], work: (guest: GuestFilesystems) => Promise<void>) => {
    await using disks = await openDisks(names.map(name => ({ name, path: at(name) })))
    const mount = kernelGuests({
      clock: systemClock,
      runDir: at('run'),
      treePrefix: () => 'kernel',
      mount: (root, mountPoint) => mountTree({ root, mountPoint, fsName: 'lifeboat:trusted', clock: systemClock }),
    })
    let loops: readonly string[] = []
    {
      await using guest = await mount(disks.disks)
      await work(guest)
      loops = loopsOf(at('run'))
      assert.notEqual(loops.length, 0, 'the kernel reads them')
    }
    await soon(() => stillRead(loops), [])
    assert.deepEqual(readdirSync(at('run')), [], 'its folder is gone')
  }

  const isReference = async (guest: GuestFilesystems, volume: string) => {
    const truth = referenceTree()
    const { compared, differences } = await compareTree((await guest.open(volume)).root, truth, UNIX)
    assert.deepEqual(differences, [], volume)
    assert.equal(compared, truth.length)
  }

  test('a partition and a whole disk are read file by file; an encrypted one is left to the appliance', async () => {
    await opened(['vda', 'ext4'], async guest => {
      const volumes = await guest.volumes()
      assert.deepEqual(
        volumes.map(({ name, disk, type, state, needs }) => [name, disk, type, state, needs]),
        [
          ['vda-p1', 'vda', 'ext4', 'readable', undefined],
          ['vda-p5', 'vda', 'crypto_LUKS', 'unsupported', 'appliance'],
          ['ext4-whole', 'ext4', 'ext4', 'readable', undefined],
        ],
      )
      await isReference(guest, 'vda-p1')
      await assert.rejects(guest.open('vda-p5'), { code: 'guest-filesystem' })
      await assert.rejects(guest.open('../disks'), { code: 'guest-filesystem' })
    })
  })

  test('a journal that would have to be replayed is left to the appliance: without it, files would be missing', async () => {
    const bytes = execFileSync('sha256sum', [at('dirty')], { encoding: 'utf8' })
    await opened(['dirty', 'ext4'], async guest => {
      const [volume] = await guest.volumes()
      assert.deepEqual([volume?.state, volume?.needs], ['unsupported', 'appliance'])
      assert.match(volume?.reason ?? '', /its journal has to be replayed/)
      await assert.rejects(guest.open('dirty-whole'), { code: 'guest-filesystem' })
    })
    assert.equal(execFileSync('sha256sum', [at('dirty')], { encoding: 'utf8' }), bytes)
  })

  test('mounts stay in the namespace of the agent', async () => {
    await opened(['vda'], async guest => {
      await guest.volumes()
      const ours = readFileSync('/proc/self/mountinfo', 'utf8')
      assert.doesNotMatch(ours, /\/mounts\/vda-p1/)
      const [agent = ''] = agentsOf(at('run'))
      const theirs = readFileSync(`/proc/${agent}/mountinfo`, 'utf8').split('\n')
      const mounted = theirs.filter(line => /\/mounts\/vda-p\d /.test(line))
      assert.equal(mounted.length, 1)
      assert.match(mounted[0] ?? '', / ro,nosuid,nodev,noexec/)
    })
  })

  suite('on the command line', () => {
    let cli: CommandLine

    before(async () => {
      cli = commandLine()
      cli.environment.LIFEBOAT_REPO = cli.at('repo')
      cli.environment.LIFEBOAT_KEY_FILE = cli.at('key')
      for (const words of ['init', `backup web --image vda=${at('ext4')}`]) {
        const { code, stderr } = await cli.run(words)
        assert.equal(code, 0, stderr)
      }
    })
    after(() => cli[Symbol.asyncDispose]())

    test('what is trusted is said, and files are listed', async () => {
      const { code, json, stderr } = await cli.json('files ls web@latest --trust-guest')
      assert.equal(code, 0, stderr)
      assert.match(stderr, /warning: --trust-guest: this host's kernel parses/)
      const { volumes } = json as { volumes: readonly { readonly name: string; readonly state: string }[] }
      assert.deepEqual(
        volumes.map(({ name, state }) => [name, state]),
        [['vda-whole', 'readable']],
      )
    })

    test('nobody but root is trusted to trust', async () => {
      await chmod(cli.dir, 0o755)
      const program = fileURLToPath(new URL('../../bin/lifeboat.mjs', import.meta.url))
      const words = ['--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, program, '--json']
      const env = { ...process.env, ...cli.environment, LIFEBOAT_STATE_DIR: '/nonexistent' }
      const { status, stdout } = spawnSync('setpriv', [...words, 'files', 'ls', 'web@latest', '--trust-guest'], {
        env,
        encoding: 'utf8',
      })
      assert.equal(status, 2, stdout)
      const { error } = JSON.parse(stdout) as { error: { code: string; hint: string } }
      assert.equal(error.code, 'usage')
      assert.match(error.hint, /without --trust-guest/)
    })

    test('a mount that is killed leaves no mount, no loop device and no agent', async () => {
      await using mounted = await mountProcess(cli, '--quiet --trust-guest')
      const mark = `/trusted-${mounted.child.pid}-`
      const marks = await markOf(mounted)
      assert.match(marks, /trusted-\d+-/, `${mark} was there`)
      const loops = loopsOf(marks)
      assert.notEqual(loops.length, 0)
      assert.notEqual(agentsOf(marks).length, 0)
      assert.equal(await mounted.stop('SIGKILL'), null)
      const left = async () => ({
        mount: await isMounted(mounted.dir),
        disks: readFileSync('/proc/self/mountinfo', 'utf8').includes(marks),
        loops: stillRead(loops),
        agents: agentsOf(marks),
      })
      const nothing = { mount: false, disks: false, loops: [], agents: [] }
      await soon(left, nothing)
      const { code, stderr } = await cli.run('files ls web@latest --trust-guest')
      assert.equal(code, 0, stderr)
      assert.ok(!readdirSync('/run/lifeboat').some(name => marks.endsWith(name)), 'its folder goes with the next use')
    })
  })
})

/** The kernel takes away after us what nobody uses any more. */
async function soon<T>(look: () => T | Promise<T>, expected: T): Promise<void> {
  for (let i = 0; i < 600 && !isDeepStrictEqual(await look(), expected); i++) await sleep(50)
  assert.deepEqual(await look(), expected)
}

/** Reads a file through the mount; then its folder of disks is known. */
async function markOf({ look }: Awaited<ReturnType<typeof mountProcess>>): Promise<string> {
  await look('find $M/by-vm/web/latest/files/vda-whole/ -type f -print0 | head -z -n 3 | xargs -0 cat > /dev/null')
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  const ours = mounts.findLast(line => line.includes('/run/lifeboat/trusted-'))
  return ours?.split(' ')[4]?.replace(/\/disks$/, '') ?? ''
}
