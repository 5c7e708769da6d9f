/** The kernel's side of /dev/fuse, in memory: asks what a test wants asked, and gets the replies. */
import { constants } from 'node:os'
import * as C from '../../src/fuse/constants.ts'
import type { FuseDevice } from '../../src/native/fuse-device.ts'

export interface FuseReply {
  readonly errno: number
  readonly body: Buffer
}

export interface FuseKernel {
  readonly device: FuseDevice
  readonly isClosed: boolean
  /** Whoever asks goes away: the reply is refused. Resolves when it was. */
  askAndLeave(opcode: number, nodeId: number, body?: Uint8Array): Promise<void>
  /** Unmounted: reading gives ENODEV. */
  unmount(): void
  /** Nothing is waited for: of FORGET and INTERRUPT. */
  tell(opcode: number, nodeId: number, body?: Uint8Array): void
  ask(opcode: number, nodeId: number, body?: Uint8Array): Promise<FuseReply> & { readonly unique: number }
  /** The first request, as this version of the kernel sends it. */
  init(minor?: number, major?: number): Promise<FuseReply>
}

/** Words of a request's body: a number is 64 bits, a string a name. */
export const fuseBody = (...words: readonly (number | string | { readonly u32: number })[]): Buffer =>
  Buffer.concat(
    words.map(word => {
      if (typeof word === 'string') return Buffer.from(`${word}\0`)
      const bytes = Buffer.alloc(typeof word === 'number' ? 8 : 4)
      if (typeof word === 'number') bytes.writeBigUInt64LE(BigInt(word))
      else bytes.writeUInt32LE(word.u32)
      return bytes
    }),
  )

export function fuseKernel(): FuseKernel {
  const requests: Buffer[] = []
  const waiting = new Map<number, (reply: FuseReply) => void>()
  let readable = () => {}
  const left = new Map<number, () => void>()
  let [unique, closed, unmounted] = [0, false, false]
  const send = (opcode: number, nodeId: number, body: Uint8Array): number => {
    unique += 2
    const request = Buffer.alloc(C.IN_HEADER_BYTES + body.length)
    request.writeUInt32LE(request.length, 0)
    request.writeUInt32LE(opcode, 4)
    request.writeBigUInt64LE(BigInt(unique), 8)
    request.writeBigUInt64LE(BigInt(nodeId), 16)
    request.set(body, C.IN_HEADER_BYTES)
    requests.push(request)
    setImmediate(() => readable())
    return unique
  }
  const device: FuseDevice = {
    read(target) {
      const request = requests.shift()
      if (request === undefined) return unmounted ? -constants.errno.ENODEV : -constants.errno.EAGAIN
      target.set(request)
      return request.length
    },
    write(parts) {
      const reply = Buffer.concat(parts)
      if (reply.readUInt32LE(0) !== reply.length) throw new Error('a reply has the wrong length')
      const id = Number(reply.readBigUInt64LE(8))
      const leaves = left.get(id)
      if (leaves !== undefined) {
        leaves()
        return constants.errno.ENOENT
      }
      const waits = waiting.get(id)
      if (waits === undefined) throw new Error(`a reply to ${id}, which nobody asked`)
      waiting.delete(id)
      waits({ errno: Math.abs(reply.readInt32LE(4)), body: Buffer.from(reply.subarray(C.OUT_HEADER_BYTES)) })
      return 0
    },
    watch(callback) {
      readable = callback
    },
    [Symbol.dispose]() {
      closed = true
      readable = () => {}
    },
  }
  const ask = (opcode: number, nodeId: number, body: Uint8Array = Buffer.alloc(0)) => {
    const id = send(opcode, nodeId, body)
    return Object.assign(new Promise<FuseReply>(resolve => waiting.set(id, resolve)), { unique: id })
  }
  return {
    device,
    get isClosed() {
      return closed
    },
    askAndLeave: (opcode, nodeId, body = Buffer.alloc(0)) => {
      const id = send(opcode, nodeId, body)
      return new Promise(resolve => left.set(id, resolve))
    },
    unmount: () => {
      unmounted = true
      readable()
    },
    tell: (opcode, nodeId, body = Buffer.alloc(0)) => void send(opcode, nodeId, body),
    ask,
    init: (minor = 44, major = 7) =>
      ask(
        C.FUSE_INIT,
        0,
        fuseBody({ u32: major }, { u32: minor }, { u32: 131_072 }, { u32: 0xffff_ffff }, ...Array(12).fill({ u32: 0 })),
      ),
  }
}
