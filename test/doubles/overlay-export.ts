/** `lifeboat export --file --writable --overlay` as a process of its own, which may be killed and started again. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../../src/core/clock.ts'
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts'

const program = fileURLToPath(new URL('../../bin/lifeboat.mjs', import.meta.url))

export class OverlayExport implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #socket: string
  stderr = ''

  private constructor(child: ChildProcess, socket: string) {
    this.#child = child
    this.#socket = socket
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
  }

  /** Resolves when clients are accepted; rejects with what the process said. */
  static async start(file: string, socket: string): Promise<OverlayExport> {
    const argv = [program, 'export', '--file', file, '--writable', '--overlay', '--socket', socket]
    const child = spawn(process.execPath, argv, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_TEST_CONTEXT: undefined },
    })
    const served = new OverlayExport(child, socket)
    await Promise.race([once(child.stdout!, 'data'), once(child, 'exit')])
    if (child.exitCode !== null) throw new Error(served.stderr)
    return served
  }

  connect(): Promise<NbdClient> {
    return connectNbd({ socket: this.#socket, exportName: 'file', clock: systemClock })
  }

  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const ended = once(this.#child, 'exit')
    this.#child.kill(signal)
    await ended
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end('SIGTERM')
  }
}
