/**
 * Gives a file of this host the attributes of a node. The order matters: a new owner takes away set-user-id and capabilities, an
 * attribute needs a file that may still be written, a directory that nobody may enter has no path into it any more, and an ACL
 * changes the mode.
 */
import { chmod, lchown } from 'node:fs/promises'
import { setTimes, setXattr } from '../native/file-attributes.ts'
import type { Attributes } from './file-tree.ts'
import { encodeName, NAME_BYTES_MAX } from './name.ts'
import { systemCode } from './output-errors.ts'
import type { ProblemKind } from './problems.ts'

export interface AttributeRules {
  /** Set-user-id, set-group-id and capabilities too. */
  readonly setuid: boolean
}

export type Report = (kind: Extract<ProblemKind, 'left-out' | 'not-set'>, reason: string) => void

const SET_ID = 0o6000
const SET_GROUP_ID = 0o2000
/** chown(2) takes the last one for "as it is". */
const ID_MAX = 2 ** 32 - 2
const CAPABILITY = 'security.capability'
/** What other names of `system.` do is up to a filesystem's driver. */
const XATTR = /^(user|trusted|security)\.|^system\.posix_acl_(access|default)$/

/** `path` is not followed if it is a link. Nothing of one that is not set keeps the rest from being set. */
export async function setAttributes(
  path: Buffer,
  attributes: Attributes,
  xattrs: ReadonlyMap<string, Uint8Array>,
  rules: AttributeRules,
  report: Report,
): Promise<void> {
  const attempt = async (what: string, call: () => Promise<void>): Promise<boolean> => {
    try {
      await call()
      return true
    } catch (error) {
      const code = systemCode(error)
      if (code === undefined) throw error
      report('not-set', `${what}: ${code}`)
      return false
    }
  }
  const isOwned = await setOwner(path, attributes, attempt, report)
  const given = attributesToGive(attributes, xattrs, rules, isOwned, report)
  await attempt('times', () => setTimes(path, attributes.accessedNs, attributes.modifiedNs))
  const setXattrs = async (wanted: (name: string) => boolean) => {
    for (const [name, value] of given.xattrs)
      if (wanted(name)) await attempt(`attribute ${name}`, () => setXattr(path, encodeName(name), value))
  }
  await setXattrs(name => !isAcl(name))
  if (attributes.kind !== 'symlink') await attempt('permissions', () => chmod(path, given.mode))
  await setXattrs(isAcl)
}

const isAcl = (name: string): boolean => name.startsWith('system.')

/** What of a node's mode and extended attributes a copy gets, as the rules are. */
export function attributesToGive(
  attributes: Attributes,
  xattrs: ReadonlyMap<string, Uint8Array>,
  rules: AttributeRules,
  isOwned: boolean,
  report: Report,
): { readonly mode: number; readonly xattrs: ReadonlyMap<string, Uint8Array> } {
  const given = new Map<string, Uint8Array>()
  for (const [name, value] of xattrs) {
    if (name === CAPABILITY && !rules.setuid) report('left-out', 'capabilities')
    else if (name === CAPABILITY && !isOwned) report('not-set', "capabilities of a file that is not its owner's")
    else if (!XATTR.test(name) || name.includes('\0') || name.length > NAME_BYTES_MAX)
      report('not-set', `attribute ${name.slice(0, NAME_BYTES_MAX)}`)
    else given.set(name, value)
  }
  const { mode, withheld } = modeOf(attributes, isOwned, rules)
  if (withheld !== undefined) report(...withheld)
  return { mode, xattrs: given }
}

async function setOwner(
  path: Buffer,
  { uid, gid }: Attributes,
  attempt: (what: string, call: () => Promise<void>) => Promise<boolean>,
  report: Report,
): Promise<boolean> {
  if (isId(uid) && isId(gid)) return attempt(`owner ${uid}:${gid}`, () => lchown(path, uid, gid))
  report('not-set', `owner ${uid}:${gid}: there is no such`)
  return false
}

export const isId = (id: number): boolean => Number.isInteger(id) && id >= 0 && id <= ID_MAX

/** A program that runs as its owner must be its owner's: else it would run as whoever restores it. */
function modeOf(
  { kind, permissions }: Attributes,
  isOwned: boolean,
  { setuid }: AttributeRules,
): { mode: number; withheld?: Parameters<Report> } {
  const mode = permissions & 0o7777
  // Of a directory set-group-id gives nobody any rights: new files in it get its group.
  const granting = kind === 'directory' ? mode & SET_ID & ~SET_GROUP_ID : mode & SET_ID
  if (!isOwned && (mode & SET_ID) !== 0)
    return {
      mode: mode & ~SET_ID,
      withheld: ['not-set', "set-user-id or set-group-id of a file that is not its owner's"],
    }
  if (!setuid && granting !== 0)
    return { mode: mode & ~granting, withheld: ['left-out', 'set-user-id or set-group-id'] }
  return { mode }
}
