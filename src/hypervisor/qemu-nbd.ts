/** A qemu-nbd of our own on a private socket: reads an image of any format, with its bitmap. Killed on dispose. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { connectNbd } from '../nbd/client.ts'
import { bitmapContext, type NbdReader } from './nbd-reader.ts'

export interface QemuNbdRequest extends AbortOptions {
  readonly file: string
  readonly format: string
  /** Disabled ones only: QEMU does not export a recording bitmap read-only. */
  readonly bitmap?: string
  readonly clock: Clock
}

export async function openWithQemuNbd(request: QemuNbdRequest): Promise<NbdReader> {
  const ending = new AsyncDisposableStack()
  try {
    const folder = await mkdtemp(path.join(tmpdir(), 'lifeboat-nbd-'))
    ending.defer(() => rm(folder, { recursive: true, force: true }))
    const socket = path.join(folder, 'n')
    const server = start(request, socket)
    ending.defer(() => server.stop())
    const reader = await connectOnceUp(request, socket, server)
    ending.use(reader)
    return disposedBy(reader, ending)
  } catch (error) {
    await ending.disposeAsync()
    throw error
  }
}

interface Server {
  /** What it said when it ended by itself. */
  ended(): string | undefined
  stop(): Promise<void>
}

function start({ file, format, bitmap }: QemuNbdRequest, socket: string): Server {
  const image = `driver=${format},read-only=on,file.driver=file,file.filename=${file.replaceAll(',', ',,')}`
  // Not --persistent: should we be killed, it ends with our connection, and its lock on the image with it.
  const args = ['--read-only', '--shared=16', '--socket', socket, '--image-opts', image]
  const child: ChildProcess = spawn('qemu-nbd', bitmap === undefined ? args : [...args, '--bitmap', bitmap], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  let ended: string | undefined
  child.stderr?.on('data', data => {
    said = (said + String(data)).slice(-2000)
  })
  const exit = new Promise<void>(resolve => {
    child.once('error', error => {
      ended = messageOf(error)
      resolve()
    })
    child.once('close', () => {
      ended ??= said.trim() || `it ended with ${child.exitCode ?? child.signalCode}`
      resolve()
    })
  })
  return {
    ended: () => ended,
    async stop() {
      child.kill('SIGKILL')
      await exit
    },
  }
}

async function connectOnceUp(
  { file, bitmap, clock, signal }: QemuNbdRequest,
  socket: string,
  server: Server,
): Promise<NbdReader> {
  const contexts = ['base:allocation', ...(bitmap === undefined ? [] : [bitmapContext(bitmap)])]
  const deadline = clock.monotonicMs() + limits.qemuNbdStartMs
  for (;;)
    try {
      return await connectNbd({ socket, exportName: '', contexts, clock, signal })
    } catch (error) {
      signal?.throwIfAborted()
      const ended = server.ended()
      if (ended !== undefined || clock.monotonicMs() > deadline)
        throw new LifeboatError('no-such-disk', `qemu-nbd cannot serve ${file}: ${ended ?? messageOf(error)}`, {
          details: { object: file },
          hint: 'Is qemu-utils installed, the format right, and no machine running on the image?',
          cause: error,
        })
      await clock.sleep(10, { signal })
    }
}

const disposedBy = (reader: NbdReader, ending: AsyncDisposableStack): NbdReader => ({
  size: reader.size,
  blockSize: reader.blockSize,
  readInto: (target, offset, options) => reader.readInto(target, offset, options),
  extents: (range, options) => reader.extents(range, options),
  blockStatus: (range, context, options) => reader.blockStatus(range, context, options),
  async [Symbol.asyncDispose]() {
    await ending.disposeAsync()
  },
})
