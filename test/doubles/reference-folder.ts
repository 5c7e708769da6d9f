/** A folder with a file of every kind and every attribute, made and described by Python: nothing of it goes through our own code. */
import { run } from './peer-tools.ts'

const MAKE = String.raw`
import os, struct, sys
folder = sys.argv[1].encode()
os.makedirs(folder)
def put(name, content=b'x'):
    path = folder + b'/' + name
    with open(path, 'wb') as file: file.write(content)
    return path
everybody = 0xffffffff
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in [
    (1, 6, everybody), (2, 4, 1000), (4, 4, everybody), (8, 5, 2000), (16, 5, everybody), (32, 0, everybody)])
path = put(b'plain', b'hello' * 100)
os.chmod(path, 0o640); os.chown(path, 1234, 4321)
os.setxattr(path, b'user.note', b'\x00\xffbin'); os.setxattr(path, b'user.a=b%', b'')
os.setxattr(path, b'system.posix_acl_access', acl)
os.utime(path, ns=(1600000000123456789, 1500000000987654321))
path = put(b'setuid'); os.chown(path, 1234, 4321); os.chmod(path, 0o4755); os.utime(path, ns=(1, -5_000_000_001))
path = put(b'capability')
os.setxattr(path, b'security.capability', struct.pack('<IIIII', 0x02000001, 1 << 13, 0, 0, 0))
path = put(b'hard1', b'linked'); os.mkdir(folder + b'/sub')
os.link(path, folder + b'/sub/hard2'); os.link(path, folder + b'/zlast')
os.symlink(b'/etc/passwd', folder + b'/absolute'); os.lchown(folder + b'/absolute', 77, 88)
os.utime(folder + b'/absolute', ns=(5, 1234567890123456789), follow_symlinks=False)
os.setxattr(folder + b'/absolute', b'trusted.link', b't', follow_symlinks=False)
os.symlink(b'../\xff/x' + b'y' * 200, folder + b'/sub/odd')
os.mkfifo(folder + b'/fifo', 0o600)
os.mknod(folder + b'/null', 0o020666, os.makedev(1, 3)); os.mknod(folder + b'/block', 0o060640, os.makedev(259, 70000))
with open(folder + b'/sparse', 'wb') as file:
    file.truncate(50_000_000)
    file.seek(1_000_000); file.write(os.urandom(70_000)); file.seek(30_000_000); file.write(b'q' * 3_000_000)
with open(folder + b'/ends in data', 'wb') as file: file.seek(3_000_000); file.write(b'end')
put(b'large', os.urandom(9_000_001)); put(b'middle', os.urandom(200_000)); put(b'empty', b'')
for name in [b'\xff\xfe\x80', b' \n\t"\\', '\u65e5\u672c\u00e9'.encode(), b'-rf', b'n' * 255, b'...', b'a:b*?']: put(name, name)
deep = folder
for level in range(30): deep += b'/' + b'd%02d' % level * 5; os.mkdir(deep)
with open(deep + b'/leaf', 'wb') as file: file.write(b'leaf')
os.mkdir(folder + b'/setgid'); os.chmod(folder + b'/setgid', 0o2775)
os.setxattr(folder + b'/setgid', b'system.posix_acl_default', acl); os.setxattr(folder + b'/setgid', b'user.dir', b'1')
os.mkdir(folder + b'/read-only'); put(b'read-only/file'); os.chmod(folder + b'/read-only', 0o555)
os.utime(folder + b'/sub', ns=(7, 8_000_000_009)); os.chown(folder + b'/sub', 4000000000, 4000000001)
os.utime(folder + b'/read-only', ns=(1, 2))
`

const DESCRIBE = `
import hashlib, os, sys
first = {}
def describe(path, shown):
    stat = os.lstat(path)
    kind = stat.st_mode & 0o170000
    words = [repr(shown), oct(stat.st_mode), stat.st_uid, stat.st_gid, stat.st_mtime_ns]
    if kind == 0o100000:
        with open(path, 'rb') as file: digest = hashlib.sha256(file.read()).hexdigest()
        has_holes = stat.st_blocks * 512 < stat.st_size - 65536
        words += [stat.st_size, digest, stat.st_nlink, first.setdefault(stat.st_ino, repr(shown)), has_holes]
    if kind == 0o120000: words += [repr(os.readlink(path))]
    if kind in (0o020000, 0o060000): words += [stat.st_rdev]
    words += sorted((repr(name), os.getxattr(path, name, follow_symlinks=False).hex()) for name in os.listxattr(path, follow_symlinks=False))
    print(*words)
    if kind == 0o040000:
        for name in sorted(os.listdir(path)): describe(path + b'/' + name, shown + b'/' + name)
describe(sys.argv[1].encode(), b'.')
`

/** As root: it has owners, devices and capabilities. */
export const makeReferenceFolder = (folder: string): Promise<string> => run('python3', '-c', MAKE, folder)

/** One line for each file: everything that a restore has to bring back. */
export const describeFolder = async (folder: string): Promise<string[]> =>
  (await run('python3', '-c', DESCRIBE, folder)).trimEnd().split('\n')
