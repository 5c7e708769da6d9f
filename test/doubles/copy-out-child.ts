/** Restores a tree with everything that only root may set, as whoever runs it: `node copy-out-child.ts TARGET`. Prints the outcome. */
import { isLifeboatError, messageOf } from '../../src/core/errors.ts'
import { copyOut } from '../../src/files/copy-out.ts'
import { directory, file, memoryTree, special, symlink } from '../../src/files/memory-tree.ts'

/** CAP_NET_RAW, effective and permitted. */
const capability = Buffer.alloc(20)
capability.writeUInt32LE(0x02000001, 0)
capability.writeUInt32LE(1 << 13, 4)
const mine = { uid: process.getuid!(), gid: process.getgid!() }
const { root } = memoryTree({
  mine: file('mine', { ...mine, permissions: 0o400, xattrs: new Map([['user.note', Buffer.from('x')]]) }),
  others: file('others', { uid: 1234, gid: 4321, permissions: 0o4755 }),
  'read-only': directory({ file: file('deep', mine) }, { ...mine, permissions: 0o555 }),
  closed: directory({ file: file('deep', mine) }, { ...mine, permissions: 0 }),
  capable: file('x', { ...mine, xattrs: new Map([['security.capability', capability]]) }),
  null: special('character-device', { ...mine, device: { major: 1, minor: 3 } }),
  fifo: special('fifo', mine),
  link: symlink('/etc/passwd', mine),
})
const outcome = await copyOut([{ path: [], node: root }], process.argv[2]!, {
  resumeKey: 'child',
  setuid: true,
  devices: true,
}).catch(error => ({ code: isLifeboatError(error) ? error.code : '', message: messageOf(error) }))
console.log(JSON.stringify(outcome))
