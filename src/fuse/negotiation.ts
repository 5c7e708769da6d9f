/** The first request: which version of the protocol is spoken, and what of it. */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import * as C from './constants.ts'
import type { Init, InitReply } from './wire.ts'

/** Writes never come; this much the kernel wants at least, and its requests fit into less than twice as much. */
const WRITE_MAX = 4096
const PAGE = 4096

const WANTED =
  C.FUSE_ASYNC_READ |
  C.FUSE_ASYNC_DIO |
  C.FUSE_AUTO_INVAL_DATA |
  C.FUSE_DO_READDIRPLUS |
  C.FUSE_READDIRPLUS_AUTO |
  C.FUSE_PARALLEL_DIROPS |
  C.FUSE_MAX_PAGES |
  C.FUSE_CACHE_SYMLINKS

/** `knowsAcls`: the kernel goes by modes and POSIX ACLs, and keeps them. */
export function negotiate({ major, minor, flags }: Init, knowsAcls: boolean): InitReply {
  if (major !== C.FUSE_KERNEL_VERSION || minor < C.FUSE_MINOR_MIN)
    throw new LifeboatError('fuse-unavailable', `This kernel speaks FUSE ${major}.${minor}, and 7.31 is needed`, {
      details: { version: `${major}.${minor}` },
      hint: 'Use Linux 5.4 or later; without a mount, `lifeboat files get` and `lifeboat restore` do the same work.',
    })
  return {
    minor: Math.min(minor, C.FUSE_KERNEL_MINOR_VERSION),
    maxReadahead: limits.fuseReadPages * PAGE,
    flags: flags & (WANTED | (knowsAcls ? C.FUSE_POSIX_ACL : 0)),
    maxBackground: limits.fuseBackgroundMax,
    maxWrite: WRITE_MAX,
    maxPages: limits.fuseReadPages,
  }
}
