/** POSIX ACLs: the kernel's form in extended attributes (linux/posix_acl_xattr.h), as the text that tars have. */

const VERSION = 2
const HEAD = 4
const ENTRY = 8
const TAGS: ReadonlyMap<number, string> = new Map([
  [0x01, 'user'],
  [0x02, 'user'],
  [0x04, 'group'],
  [0x08, 'group'],
  [0x10, 'mask'],
  [0x20, 'other'],
])
const NAMED = 0x02 | 0x08

/** 'user::rw-,user:1000:r--,...' with numbers for names: those of this host mean nothing to a guest. Undefined: it is no ACL. */
export function aclText(value: Uint8Array): string | undefined {
  const view = new DataView(value.buffer, value.byteOffset, value.length)
  if (value.length < HEAD || (value.length - HEAD) % ENTRY !== 0 || view.getUint32(0, true) !== VERSION)
    return undefined
  const entries: string[] = []
  for (let at = HEAD; at < value.length; at += ENTRY) {
    const tag = view.getUint16(at, true)
    const permissions = view.getUint16(at + 2, true)
    const word = TAGS.get(tag)
    if (word === undefined || permissions > 7) return undefined
    const who = (tag & NAMED) !== 0 ? `${view.getUint32(at + 4, true)}` : ''
    const letter = (bit: number, text: string) => ((permissions & bit) !== 0 ? text : '-')
    entries.push(`${word}:${who}:${letter(4, 'r')}${letter(2, 'w')}${letter(1, 'x')}`)
  }
  return entries.join(',')
}
