/** Mounts that end in every way, places where none can be, and large ones. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { cannotMount, treeMount } from '../doubles/tree-mount.ts'

const options = { skip: cannotMount, timeout: 120_000 }

test('a user mounts for himself, others are kept out, and it goes when he ends it', options, async () => {
  await using mount = await treeMount({ uid: 65_534 })
  assert.deepEqual(mount.said[0], { mounted: mount.at })
  assert.equal(
    await mount.python(`print(open(path('dir/sub/deep')).read(), oct(os.lstat(path('one')).st_mode))`, { uid: 65_534 }),
    'deep 0o104750',
  )
  assert.equal(await mount.python(`print(refusal(os.listdir, at))`), 'EACCES')
  mount.server.kill('SIGTERM')
  await mount.ended()
  assert.deepEqual([mount.said.at(-1), await mount.isMounted()], [{ ended: true }, false])
})

test('others may look where it is allowed, as far as modes and ACLs of the tree let them', options, async () => {
  await using mount = await treeMount({ allowOther: true })
  const look = (uid: number) =>
    mount.python(`print(refusal(lambda: open(path('one')).read()), open(path('dir/sub/deep')).read())`, { uid })
  assert.equal(await look(65_534), 'EACCES deep')
  assert.equal(await look(1234), 'done deep')
  assert.equal(await look(5555), 'done deep')
})

test('a mount in use is taken away all the same, and who used it is named and gets errors', options, async () => {
  await using mount = await treeMount()
  const using = await mount.busyPython(`
fd = os.open(path('image'), os.O_RDONLY | os.O_DIRECT)
ready()
while refusal(os.pread, fd, 1, 0) == 'done': time.sleep(0.05)
print('freed', refusal(os.pread, fd, 1, 0))`)
  mount.server.kill('SIGTERM')
  await mount.ended()
  assert.match(await using.ended, /^freed (ENOTCONN|ECONNABORTED|EIO)$/)
  assert.equal(await mount.isMounted(), false)
  assert.ok(
    mount.said.some(({ trouble }) => /in use: python3 \(\d+\)/.test(trouble ?? '')),
    JSON.stringify(mount.said),
  )
})

test('somebody else unmounts it, by force too: the server ends', options, async () => {
  for (const words of [['fusermount3', '-u'], ['umount'], ['umount', '-f', '-l']]) {
    await using mount = await treeMount()
    await mount.python(`import subprocess; subprocess.run(${JSON.stringify(words)} + [at], check=True)`)
    await mount.ended()
    assert.deepEqual([mount.said.at(-1), await mount.isMounted()], [{ ended: true }, false], words.join(' '))
  }
})

test('a place that is no empty folder is refused with what to do', options, async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-mount-point-'))
  try {
    await writeFile(path.join(dir, 'file'), '')
    await mkdir(path.join(dir, 'full', 'x'), { recursive: true })
    await using mount = await treeMount()
    await symlink(mount.at, path.join(dir, 'link'))
    const refused = async (at: string, hint: RegExp) => {
      await using other = await treeMount({ at })
      await other.ended()
      assert.equal(other.said[0]?.failed, 'mount-point', at)
      assert.match(other.said[0]?.hint ?? '', hint)
    }
    await refused(path.join(dir, 'missing'), /mkdir/)
    await refused(path.join(dir, 'file'), /empty folder/)
    await refused(path.join(dir, 'full'), /empty folder/)
    await refused(mount.at, /fusermount3 -u/)
    await refused(path.join(dir, 'link'), /fusermount3 -u/)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('a host that cannot mount says what it lacks', options, async () => {
  const lacking = async (script: string, options: { uid?: number; allowOther?: boolean }, hint: RegExp) => {
    await using mount = await treeMount({
      ...options,
      within: ['unshare', '-m', 'sh', '-c', `${script} exec "$@"`, 'sh'],
    })
    await mount.ended()
    assert.equal(mount.said[0]?.failed, 'fuse-unavailable', JSON.stringify(mount.said[0]))
    assert.match(mount.said[0]?.hint ?? '', hint)
  }
  await lacking('mount --bind /dev/null "$(command -v fusermount3)";', {}, /install fuse3/)
  await lacking('mount -t tmpfs none /dev; mknod /dev/null c 1 3; mknod /dev/urandom c 1 9;', {}, /modprobe fuse/)
  await lacking('mount --bind /dev/null /etc/fuse.conf;', { uid: 65_534, allowOther: true }, /user_allow_other/)
})

test('the folder serves again after each unmount', options, async () => {
  for (let round = 0; round < 3; round++) {
    await using mount = await treeMount()
    assert.equal(await mount.python(`print(len(os.listdir(path('many'))))`), '500')
  }
})

for (const uid of [0, 65_534])
  test(`kill -9 of the server frees who reads and leaves no mount behind, for user ${uid}`, options, async () => {
    await using mount = await treeMount({ uid })
    const reading = await mount.busyPython(
      `
fd = os.open(path('hung'), os.O_RDONLY)
threading.Timer(0.2, ready).start()
print(refusal(os.pread, fd, 1, 0))`,
      { uid },
    )
    mount.server.kill('SIGKILL')
    assert.match(await reading.ended, /^(ENOTCONN|ECONNABORTED|EIO)$/)
    while (await mount.isMounted()) await setTimeout(20)
    assert.equal(await mount.python('print(os.listdir(at))'), '[]')
  })

test(
  'a directory of 100,000 entries is listed whole, by name and by attributes, and each is found',
  options,
  async () => {
    await using mount = await treeMount({ entries: 100_000 })
    const seen = JSON.parse(
      await mount.python(`
import subprocess
many = path('many')
names = os.listdir(many)
inodes = {entry.stat(follow_symlinks=False).st_ino for entry in os.scandir(many)}
listed = subprocess.run(['ls', '-l', many], stdout=subprocess.PIPE, check=True).stdout.count(b'\\n')
print(json.dumps([len(names), len(set(names)), len(inodes), listed, open(os.path.join(many, 'entry-99999')).read()]))`),
    )
    assert.deepEqual(seen, [100_000, 100_000, 100_000, 100_001, '99999'])
  },
)

test('64 readers at once read the same bytes', options, async () => {
  await using mount = await treeMount()
  const seen = await mount.python(`
import hashlib, random
from concurrent.futures import ThreadPoolExecutor
whole = open(path('image'), 'rb').read()
def reader(i):
  fd = os.open(path('image'), os.O_RDONLY | (os.O_DIRECT if i % 2 else 0))
  wrong = 0
  for _ in range(50):
    offset, length = random.randrange(len(whole)), random.randrange(1, 1 << 20)
    wrong += os.pread(fd, length, offset) != whole[offset:offset + length]
  os.close(fd)
  return wrong
with ThreadPoolExecutor(64) as pool: print(sum(pool.map(reader, range(64))))`)
  assert.equal(seen, '0')
})
