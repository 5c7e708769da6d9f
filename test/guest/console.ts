/**
 * Talks with a test guest's command channel over the Unix socket of its serial port, whoever started the guest. Everything
 * that was said is kept, bounded, for the message when something goes wrong.
 */
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { READY } from './command-channel.ts'

const TEXT_KEPT = 1024 * 1024
/** A line of a terminal holds 4,096 bytes. */
const LINE_MAX = 4000
/** A guest that said READY before anybody listened is found by an empty line, which the channel answers. */
const POKE_AFTER_MS = 5_000
const COMMAND_TIMEOUT_MS = 120_000

export interface CommandResult {
  readonly rc: number
  readonly output: string
}

export interface GuestConsole extends Disposable {
  /** Resolves when the guest takes commands. */
  waitForPrompt(timeoutMs: number): Promise<void>
  /** Runs one shell line in the guest. One at a time. */
  run(line: string, options?: { timeoutMs?: number }): Promise<CommandResult>
  /** The same for lines that must succeed: resolves to the output without the last newline. */
  must(line: string, options?: { timeoutMs?: number }): Promise<string>
  /** Sends the word without waiting for an answer. */
  askToPowerOff(): void
  text(): string
}

/** Tries until the socket is there; QEMU makes it a moment after it was started. */
export async function connectConsole(path: string, timeoutMs = 30_000): Promise<GuestConsole> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    try {
      return talk(await open(path))
    } catch (error) {
      if (performance.now() > deadline) throw new Error(`no serial console at ${path}`, { cause: error })
      await sleep(20)
    }
  }
}

const open = (path: string): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(path, () => resolve(socket))
    socket.once('error', reject)
  })

function talk(socket: Socket): GuestConsole {
  let text = ''
  let closed = false
  let lookAgain = (): void => {}
  let busy = false
  let commands = 0

  socket.setEncoding('utf8')
  socket.on('data', chunk => {
    text = (text + chunk).slice(-TEXT_KEPT)
    lookAgain()
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    closed = true
    lookAgain()
  })

  async function waitFor(pattern: RegExp, what: string, timeoutMs: number): Promise<RegExpExecArray> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const found = pattern.exec(text)
      if (found) return found
      const trouble = /Kernel panic/.exec(text)?.[0] ?? (closed ? 'the guest is gone' : undefined)
      const left = deadline - performance.now()
      if (trouble !== undefined) throw new Error(`${what}: ${trouble}. The console's last words:\n${lastWords()}`)
      if (left <= 0) throw new Error(`${what}: nothing in ${timeoutMs} ms. The console's last words:\n${lastWords()}`)
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, left)
        lookAgain = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  const lastWords = (): string => text.slice(-3000).replaceAll('\r', '')

  async function waitForPrompt(timeoutMs: number): Promise<void> {
    const poke = setInterval(() => socket.write('\n'), POKE_AFTER_MS)
    try {
      await waitFor(new RegExp(`${READY} \\d+|^RC=0\\r?\\n`, 'm'), 'waiting for the prompt', timeoutMs)
    } finally {
      clearInterval(poke)
    }
  }

  async function run(line: string, { timeoutMs = COMMAND_TIMEOUT_MS } = {}): Promise<CommandResult> {
    if (busy) throw new Error('the console takes one command at a time')
    if (line.includes('\n') || line.length > LINE_MAX)
      throw new Error('the console takes one line of at most 4,000 characters')
    const mark = `<${++commands}>`
    busy = true
    try {
      // The mark is a line of its own, so that it is there also when `line` cannot be parsed.
      socket.write(`echo '${mark}'\n${line}\n`)
      const found = await waitFor(
        new RegExp(`${mark}\\r?\\nRC=0\\r?\\n([^]*?)RC=(\\d+)\\r?\\n`),
        `'${line}'`,
        timeoutMs,
      )
      return { rc: Number(found[2]), output: (found[1] ?? '').replaceAll('\r', '') }
    } finally {
      busy = false
    }
  }

  async function must(line: string, options: { timeoutMs?: number } = {}): Promise<string> {
    const { rc, output } = await run(line, options)
    if (rc !== 0) throw new Error(`'${line}' ended with ${rc} in the guest:\n${output}`)
    return output.replace(/\n$/, '')
  }

  return {
    waitForPrompt,
    run,
    must,
    askToPowerOff: () => void socket.write('poweroff\n'),
    text: () => text,
    [Symbol.dispose]: () => void socket.destroy(),
  }
}
