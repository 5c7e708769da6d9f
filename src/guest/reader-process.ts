/** One process of the reader: started without an environment and with two sockets, killed on dispose. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { Duplex } from 'node:stream'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
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
  const child = spawn(program, args, { env: {}, cwd: '/', stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'] })
  const [protocol, blocks] = [child.stdio[3], child.stdio[4]]
  if (!(protocol instanceof Duplex) || !(blocks instanceof Duplex))
    throw new LifeboatError('internal', 'the reader has no sockets')
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
      await answering.close()
    },
  }
}

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
