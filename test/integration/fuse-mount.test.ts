/** A tree that is really mounted, looked at by other processes. More of it in fuse-mount.full.test.ts. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { HOLE_AT, HOLE_UNTIL, IMAGE_BYTES, TIME_NS } from '../doubles/mounted-tree-child.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { cannotMount, type TreeMount, treeMount } from '../doubles/tree-mount.ts'

const options = { skip: cannotMount, timeout: 120_000 }
const image = createHash('sha256').update(patternBytes(IMAGE_BYTES)).digest('hex')

let mount: TreeMount
before(async () => {
  if (cannotMount === false) mount = await treeMount()
})
after(() => mount?.[Symbol.asyncDispose]())

test(
  'a mounted tree is what it is: metadata to the nanosecond, names, links, attributes, holes and bytes',
  options,
  async () => {
    const seen = JSON.parse(
      await mount.python(`
one, two = os.lstat(path('one')), os.lstat(path('two'))
fs = os.statvfs(at)
fd = os.open(path('sparse'), os.O_RDONLY)
null = os.lstat(path('null'))
print(json.dumps({
  'names': sorted(repr(name) for name in os.listdir(at.encode())),
  'mode': oct(one.st_mode), 'ids': [one.st_uid, one.st_gid], 'links': one.st_nlink, 'same': one.st_ino == two.st_ino,
  'times': [str(one.st_mtime_ns), str(one.st_ctime_ns), str(one.st_atime_ns)],
  'xattrs': {name: os.getxattr(path('one'), name).hex() for name in sorted(os.listxattr(path('one')))},
  'noXattr': refusal(os.getxattr, path('two'), 'user.other'),
  'target': os.readlink(path('link')),
  'device': [stat.S_ISCHR(null.st_mode), os.major(null.st_rdev), os.minor(null.st_rdev)],
  'fifo': stat.S_ISFIFO(os.lstat(path('fifo')).st_mode),
  'deep': open(path('dir/sub/deep')).read(),
  'statfs': [fs.f_bsize, fs.f_blocks, fs.f_bfree, fs.f_files],
  'blocks': os.fstat(fd).st_blocks * 512,
  'seeks': [os.lseek(fd, 0, os.SEEK_HOLE), os.lseek(fd, ${HOLE_AT}, os.SEEK_DATA), os.lseek(fd, ${HOLE_UNTIL}, os.SEEK_HOLE)],
  'unique': len({os.lstat(path(n)).st_ino for n in os.listdir(at)}),
}))`),
    )
    const encoded = [
      'dir',
      'fifo',
      'image',
      'link',
      'many',
      'null',
      'one',
      'sparse',
      'two',
      'slow',
      'hung',
      'deaf',
      'away',
    ]
    const names = [...encoded.map(name => `b'${name}'`), "b'\\xff\\xfe'", "b'n\\xc3\\xa4me with space'"].sort()
    assert.deepEqual(seen.names, names)
    assert.equal(seen.unique, names.length - 1)
    assert.deepEqual([seen.mode, seen.ids, seen.links, seen.same], ['0o104750', [1234, 4321], 2, true])
    assert.deepEqual(seen.times, [`${TIME_NS}`, `${TIME_NS + 1n}`, `${TIME_NS + 2n}`])
    assert.deepEqual(Object.keys(seen.xattrs), ['security.capability', 'system.posix_acl_access', 'user.demo'])
    assert.equal(seen.xattrs['user.demo'], Buffer.from('value\0with nul').toString('hex'))
    assert.equal(seen.xattrs['system.posix_acl_access'].length, 88)
    assert.deepEqual([seen.noXattr, seen.target, seen.deep], ['ENODATA', '../somewhere/else', 'deep'])
    assert.deepEqual([seen.device, seen.fifo], [[true, 1, 3], true])
    assert.deepEqual(seen.statfs, [4096, 1000, 250, 77])
    assert.equal(seen.blocks, (4 << 20) - (HOLE_UNTIL - HOLE_AT))
    assert.deepEqual(seen.seeks, [HOLE_AT, HOLE_UNTIL, 4 << 20])
  },
)

test('an image reads the same in order, at random places, through mmap and past the page cache', options, async () => {
  const seen = JSON.parse(
    await mount.python(`
import hashlib, random
whole = open(path('image'), 'rb').read()
fd = os.open(path('image'), os.O_RDONLY | os.O_DIRECT)
direct = mmap.mmap(-1, len(whole))
got = os.preadv(fd, [direct], 0)
again = mmap.mmap(os.open(path('image'), os.O_RDONLY), 0, prot=mmap.PROT_READ)
wrong = 0
for _ in range(200):
  offset, length = random.randrange(len(whole)), random.randrange(1, 200000)
  if os.pread(fd if offset % 2 else os.open(path('image'), os.O_RDONLY), length, offset) != whole[offset:offset + length]: wrong += 1
print(json.dumps([hashlib.sha256(whole).hexdigest(), got, hashlib.sha256(direct).hexdigest(), hashlib.sha256(again).hexdigest(), wrong]))`),
  )
  assert.deepEqual(seen, [image, IMAGE_BYTES, image, image, 0])
})

test('whatever would change something is refused with EROFS', options, async () => {
  const seen = JSON.parse(
    await mount.python(`
one, new = path('one'), path('new')
calls = {
  'create': lambda: os.open(new, os.O_CREAT | os.O_WRONLY), 'write': lambda: os.open(one, os.O_WRONLY),
  'readwrite': lambda: os.open(one, os.O_RDWR), 'truncate': lambda: os.truncate(one, 0), 'tmpfile': lambda: os.open(at, os.O_TMPFILE | os.O_RDWR),
  'mkdir': lambda: os.mkdir(new), 'rmdir': lambda: os.rmdir(path('dir')), 'unlink': lambda: os.unlink(one),
  'rename': lambda: os.rename(one, new), 'link': lambda: os.link(one, new), 'symlink': lambda: os.symlink('x', new),
  'mknod': lambda: os.mknod(new), 'mkfifo': lambda: os.mkfifo(new), 'chmod': lambda: os.chmod(one, 0), 'chown': lambda: os.chown(one, 0, 0),
  'utime': lambda: os.utime(one), 'setxattr': lambda: os.setxattr(one, 'user.a', b'b'), 'removexattr': lambda: os.removexattr(one, 'user.demo'),
  'access': lambda: (_ for _ in ()).throw(OSError(errno.EROFS, '')) if not os.access(one, os.W_OK) else None,
}
print(json.dumps({name: refusal(call) for name, call in calls.items()}))`),
  )
  assert.equal(Object.keys(seen).length, 19)
  for (const [name, refusal] of Object.entries(seen)) assert.equal(refusal, 'EROFS', name)
})

test(
  'slow reads overlap, a store that is away is EIO, and nothing waits behind a read that hangs',
  options,
  async () => {
    const seen = JSON.parse(
      await mount.python(`
def hang(): os.pread(os.open(path('hung'), os.O_RDONLY), 4096, 0)
threading.Thread(target=hang, daemon=True).start()
def slow(i): os.pread(os.open(path('slow'), os.O_RDONLY | os.O_DIRECT), 4096, i * 4096)
threads = [threading.Thread(target=slow, args=(i,)) for i in range(64)]
began = time.monotonic()
for t in threads: t.start()
for t in threads: t.join()
took = time.monotonic() - began
away = refusal(lambda: open(path('away'), 'rb').read(1))
print(json.dumps([took, away, open(path('dir/sub/deep')).read()]))
sys.stdout.flush()
os._exit(0)`),
    )
    // One after the other they would take 64 times 400 ms.
    assert.ok(seen[0] >= 0.4 && seen[0] < 15, `${seen[0]} s`)
    assert.deepEqual(seen.slice(1), ['EIO', 'deep'])
    assert.ok(mount.said.some(({ trouble }) => trouble?.includes('the store is away')))
  },
)

test('who is killed while he waits for bytes goes, also where the tree is deaf', options, async () => {
  for (const name of ['hung', 'deaf'])
    await mount.python(`
child = os.fork()
if child == 0: os.pread(os.open(path('${name}'), os.O_RDONLY), 1, 0)
time.sleep(0.3)
os.kill(child, 9)
os.waitpid(child, 0)`)
})

test('kill -9 of the server frees who reads and leaves no mount behind', options, async () => {
  const uid = 65_534
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
