/**
 * Files in memory beneath an overlay, whose process may be killed and whose host may lose power. What was not synced is kept
 * apart; a power cut drops, reorders and tears it at 512 bytes, and keeps only a prefix of the changes of names.
 */

import type { BlockBatch, OverlayFile, OverlayFiles } from '../../src/block/overlay-files.ts'
import { blockCheck, overlayDamaged, sum64 } from '../../src/block/overlay-format.ts'
import { type Clock, systemClock } from '../../src/core/clock.ts'
import { type Draw, Inode, owned } from './power-cut-inode.ts'

/** A clock that only the seed drives: now and then a call takes as long as on a disk that makes writers wait. */
export function drawnClock(draw: Draw): Clock {
  let ms = 0
  let slow = 0
  return {
    ...systemClock,
    monotonicMs: () => {
      if (draw() < 0.02) slow = 6
      ms += slow-- > 0 ? 20 : 1
      return ms
    },
  }
}

interface Faults {
  /** fsync says that it did, and did not. */
  forgetsSyncs?: boolean
  /** So many syncs fail from now on; what they should have stored is dropped, as a kernel does. */
  failingSyncs?: number
}

export class PowerCutFiles {
  readonly faults: Faults = {}
  readonly #draw: Draw
  #names = new Map<string, Inode>()
  #durableNames = new Map<string, Inode>()
  #nameChanges: ((names: Map<string, Inode>) => void)[] = []
  #locks = new Set<string>()
  #life = 0
  /** Syncs that did something. */
  syncs = 0

  constructor(draw: Draw) {
    this.#draw = draw
  }

  /** The process dies: what it still waits for never comes; each of its calls may have taken effect or not. */
  kill(): void {
    this.#life++
    this.#locks = new Set()
  }

  cutPower(): void {
    this.kill()
    const kept = Math.floor(this.#draw() * (this.#nameChanges.length + 1))
    for (const change of this.#nameChanges.slice(0, kept)) change(this.#durableNames)
    this.#nameChanges = []
    this.#names = new Map(this.#durableNames)
    for (const inode of new Set(this.#names.values())) inode.cut(this.#draw)
  }

  /** The bytes of a file, to be looked at or damaged. */
  contents(path: string): Buffer {
    return this.#names.get(path)!.bytes
  }

  paths(): string[] {
    return [...this.#names.keys()].sort()
  }

  replace(path: string, bytes: Buffer): void {
    const inode = new Inode()
    inode.bytes = owned(bytes)
    inode.durable = owned(bytes)
    this.#names.set(path, inode)
    this.#durableNames.set(path, inode)
  }

  /** A copy of everything as it is, all of it durable. */
  copy(): PowerCutFiles {
    const copy = new PowerCutFiles(this.#draw)
    for (const [path, { bytes }] of this.#names) copy.replace(path, bytes)
    return copy
  }

  /** As one process sees them, until it is killed. */
  files(): OverlayFiles {
    const life = this.#life
    const call = async <T>(work: () => T): Promise<T> => {
      for (let turns = Math.floor(this.#draw() * 3); turns > 0; turns--) await Promise.resolve()
      if (this.#draw() < 0.1) await new Promise(resolve => setImmediate(resolve))
      if (life !== this.#life) return new Promise<T>(() => {})
      const result = work()
      await Promise.resolve()
      return life === this.#life ? result : new Promise<T>(() => {})
    }
    const named = (change: (names: Map<string, Inode>) => void) => {
      change(this.#names)
      this.#nameChanges.push(change)
    }
    const inodeOf = (path: string): Inode => {
      const inode = this.#names.get(path)
      if (inode === undefined) throw Object.assign(new Error(`ENOENT: ${path}`), { code: 'ENOENT', syscall: 'open' })
      return inode
    }
    return {
      open: (path, { create }) =>
        call(() => {
          if (create && !this.#names.has(path)) {
            const inode = new Inode()
            named(names => names.set(path, inode))
          }
          return this.#file(inodeOf(path), call)
        }),
      lock: path =>
        call(() => {
          if (this.#locks.has(path)) return undefined
          const locks = this.#locks.add(path)
          return {
            [Symbol.asyncDispose]: async () => {
              locks.delete(path)
            },
          }
        }),
      names: folder =>
        call(() =>
          [...this.#names.keys()]
            .filter(path => path.startsWith(`${folder.replace(/\/\.$/, '')}/`))
            .map(path => path.slice(path.lastIndexOf('/') + 1)),
        ),
      rename: (from, to) =>
        call(() => {
          const inode = inodeOf(from)
          named(names => {
            names.delete(from)
            names.set(to, inode)
          })
        }),
      unlink: path =>
        call(() => {
          inodeOf(path)
          named(names => names.delete(path))
        }),
      makeFolder: () => call(() => {}),
      syncFolder: () =>
        call(() => {
          this.#nameChanges = []
          this.#durableNames = new Map(this.#names)
        }),
    }
  }

  #file(inode: Inode, call: <T>(work: () => T) => Promise<T>): OverlayFile {
    const write = (bytes: Uint8Array, at: number) => inode.apply({ at, bytes: Buffer.from(bytes) })
    const writeBatch = ({ parts, positions, checks }: BlockBatch) => {
      let block = 0
      for (const [n, part] of parts.entries()) {
        for (let at = 0; at < part.length; at += 4096) checks[block++] = blockCheck(part.subarray(at, at + 4096))
        write(part, positions[n]!)
      }
    }
    const writeRecord = ({ log, record, recordPosition }: BlockBatch) => {
      if (record.length === 0) return
      sum64(record.subarray(8)).copy(record)
      INODES.get(log)!.apply({ at: recordPosition, bytes: Buffer.from(record) })
    }
    const file: OverlayFile = {
      fd: -1,
      size: () => call(() => inode.bytes.length),
      readAt: (target, position) =>
        call(() => (position < inode.bytes.length ? inode.bytes.copy(target, 0, position) : 0)),
      writeAt: (bytes, position) => call(() => write(bytes, position)),
      readBlocks: (parts, positions, checks) =>
        call(() => {
          let block = 0
          for (const [n, part] of parts.entries()) {
            if (positions[n]! + part.length > inode.bytes.length) throw overlayDamaged('data', 'it is cut off')
            inode.bytes.copy(part, 0, positions[n]!)
            for (let at = 0; at < part.length; at += 4096) checks[block++] = blockCheck(part.subarray(at, at + 4096))
          }
        }),
      writeBlocks: (batch, now) => {
        if (!now) return call(() => writeBatch(batch)).then(() => call(() => writeRecord(batch)))
        writeBatch(batch)
        writeRecord(batch)
        return undefined
      },
      truncate: size => call(() => inode.apply({ size })),
      reserve: () => call(() => true),
      punch: (offset, length) =>
        call(() => {
          write(Buffer.alloc(Math.max(0, Math.min(length, inode.bytes.length - offset))), offset)
          return true
        }),
      sync: async () => {
        const upTo = inode.settled + inode.pending.length
        await call(() => {
          if (this.faults.forgetsSyncs) return
          if (this.faults.failingSyncs) {
            this.faults.failingSyncs--
            inode.sync(upTo, true)
            throw Object.assign(new Error('EIO: fsync'), { code: 'EIO', syscall: 'fdatasync' })
          }
          inode.sync(upTo)
          this.syncs++
        })
      },
      close: () => call(() => {}),
    }
    INODES.set(file, inode)
    return file
  }
}

const INODES = new WeakMap<OverlayFile, Inode>()
