/** One process of the reader: started without an environment and with two sockets, killed on dispose. */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync } from 'node:fs'
import { Socket, type SocketConstructorOpts } from 'node:net'
import type { Duplex } from 'node:stream'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { KiB, limits } from '../core/limits.ts'
import { socketPair } from '../native/fuse-device.ts'
import type { GuestDisk } from './guest-filesystems.ts'
import { ReaderBlocks } from './reader-blocks.ts'

export interface ReaderProcess extends AsyncDisposable {
  readonly pid: number | undefined
  /** Of docs/guest-protocol.md. */
  readonly protocol: Duplex
  /** How it ended, in words for people. Never rejects. */
  readonly ended: Promise<string>
}

/** Throws 'tool-missing' where the reader was not built. */
export function startReader(program: string, disks: readonly GuestDisk[]): ReaderProcess {
  if (!existsSync(program)) throw notBuilt(program)
  const bounds = [limits.guestReaderMemoryBytes, limits.guestReaderCpuSeconds, limits.guestReaderComputeMs]
  const args = [...bounds.map(String), ...disks.map(({ name, image }) => `${image.size}:${name}`)]
  const [protocol, protocolThere] = socketTo()
  const [blocks, blocksThere] = socketTo()
  let child: ChildProcess
  try {
    const stdio = ['ignore', 'ignore', 'pipe', protocolThere, blocksThere] as const
    child = spawn(program, args, { env: {}, cwd: '/', stdio: [...stdio] })
  } catch (error) {
    protocol.destroy()
    blocks.destroy()
    throw error
  } finally {
    closeSync(protocolThere)
    closeSync(blocksThere)
  }
  // Whoever speaks the protocol listens later.
  protocol.on('error', () => {})
  let refused: string | undefined
  const ended = endOf(child, () => refused)
  const answering = new ReaderBlocks(blocks, disks, why => {
    refused = why
    child.kill('SIGKILL')
  })
  return {
    pid: child.pid,
    protocol,
    ended,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
      protocol.destroy()
      await answering.close()
    },
  }
}

/** Ours, and the descriptor for the child. What comes is read into the same memory again and again: fresh memory for a file's bytes costs more than the bytes. */
function socketTo(): readonly [Duplex, number] {
  const [ours, theirs] = socketPair()
  const socket: Socket = new Socket({
    fd: ours,
    onread: {
      buffer: Buffer.allocUnsafeSlow(RECEIVED_AT_ONCE),
      // Whoever listens is done with it when this returns. False would end the reading.
      callback: (length, bytes) => {
        socket.emit('data', bytes.subarray(0, length))
        return true
      },
    },
  } as SocketConstructorOpts)
  return [socket, theirs]
}

/** A socket of the kernel's default size holds no more. */
const RECEIVED_AT_ONCE = 256 * KiB
const SAID_MAX = 2000

function endOf(child: ChildProcess, refused: () => string | undefined): Promise<string> {
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-SAID_MAX)
  })
  return new Promise(resolve => {
    child.once('error', error => resolve(`could not be started: ${messageOf(error)}`))
    child.once('close', (code, signal) => {
      const words = said.trim().replaceAll(/\s+/g, ' ')
      resolve(`ended with ${signal ?? code}: ${refused() ?? (words || meaningOf(signal))}`)
    })
  })
}

/** What the kernel does to who leaves the bounds, told for people. */
function meaningOf(signal: string | null): string {
  if (signal === 'SIGSYS') return 'it called what its sandbox forbids'
  if (signal === 'SIGXCPU' || signal === 'SIGKILL') return 'it was killed'
  return 'the filesystem broke its parser'
}

const notBuilt = (program: string): LifeboatError =>
  new LifeboatError('tool-missing', 'the reader of filesystems without a VM was not built on this host', {
    details: { object: program },
    hint: 'apt-get install g++ libext2fs-dev libtsk-dev zlib1g-dev, then `npm run setup`; until then the appliance reads them.',
  })
