/** What a command shows: a table or one JSON document on stdout; messages and bars on stderr. */
import type { Writable } from 'node:stream'
import { Presets, SingleBar } from 'cli-progress'
import type { Meter, StoreFigures } from '../storage/metered.ts'
import { requestsText, sumOfFigures } from './requests.ts'
import { formatBytes } from './units.ts'

export interface OutputOptions {
  readonly json: boolean
  readonly quiet: boolean
  /** JSON lines for progress, with `json`. */
  readonly progress: boolean
}

export interface Column {
  readonly title: string
  readonly align?: 'right'
}

/** A bar with an estimate on a terminal, JSON lines where asked for, nothing elsewhere. */
export interface Progress {
  /** False where nobody sees it, so that a total that costs requests need not be found out. */
  readonly isShown: boolean
  update(done: number, total: number, label: string): void
  stop(): void
}

export class Output {
  readonly options: OutputOptions
  readonly #stdout: Writable
  readonly #stderr: Writable & { isTTY?: boolean }
  readonly #meters: Meter[] = []

  constructor(stdout: Writable, stderr: Writable & { isTTY?: boolean }, options: OutputOptions) {
    this.#stdout = stdout
    this.#stderr = stderr
    this.options = options
  }

  /** The result of a command: the document with --json, with what was asked of the store so far; else what `people` prints. */
  result(document: object, people: () => void): void {
    if (!this.options.json) {
      people()
      return
    }
    const requests = this.#requests()
    this.#stdout.write(`${JSON.stringify(requests ? { requests, ...document } : document, jsonValue)}\n`)
  }

  /** What this meter counts is told with the result and at the end. */
  counts(meter: Meter): void {
    this.#meters.push(meter)
  }

  /** The last line for people: what the whole command asked of the store. `always`: with --json too, whose document came before most of it. */
  closing({ always = false } = {}): void {
    const requests = this.#requests()
    const text = requests && requestsText(requests)
    if (text && (always || !this.options.json)) this.message(`requests: ${text}`)
  }

  #requests(): StoreFigures | undefined {
    return sumOfFigures(this.#meters.map(meter => meter.figures()))
  }

  line(text = ''): void {
    this.#stdout.write(`${text}\n`)
  }

  table(columns: readonly Column[], rows: readonly (readonly string[])[]): void {
    const lines = rows.map(row => row.map(printable))
    const widths = columns.map(({ title }, at) =>
      lines.reduce((width, cells) => Math.max(width, cells[at]?.length ?? 0), title.length),
    )
    const print = (cells: readonly string[]) =>
      this.line(
        cells
          .map((cell, at) =>
            columns[at]?.align === 'right' ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0),
          )
          .join('  ')
          .trimEnd(),
      )
    print(columns.map(({ title }) => title))
    for (const cells of lines) print(cells)
  }

  /** Something that a person should know although the command goes on. */
  message(text: string): void {
    if (!this.options.quiet) this.#stderr.write(`${text}\n`)
  }

  /** Shown even with --quiet. */
  warning(text: string): void {
    this.#stderr.write(`warning: ${text}\n`)
  }

  error(text: string): void {
    this.#stderr.write(`${text}\n`)
  }

  /** `say`: how people read the numbers; bytes unless it is given. */
  progress(say: (amount: number) => string = formatBytes): Progress {
    if (this.options.json && this.options.progress)
      return {
        isShown: true,
        update: (done, total, label) => this.line(JSON.stringify({ progress: { done, total, label } })),
        stop: () => {},
      }
    if (this.options.json || this.options.quiet || !this.#stderr.isTTY)
      return { isShown: false, update: () => {}, stop: () => {} }
    const bar = new SingleBar(
      {
        format: '{label} {bar} {percentage}% | {done} of {all} | {eta_formatted} left',
        stream: this.#stderr,
        hideCursor: true,
        clearOnComplete: true,
        etaBuffer: 50,
      },
      Presets.shades_classic,
    )
    let started = false
    return {
      isShown: true,
      update: (done, total, label) => {
        const shown = { label, done: say(done), all: say(total) }
        if (!started) bar.start(total, done, shown)
        else {
          bar.setTotal(total)
          bar.update(done, shown)
        }
        started = true
      },
      stop: () => started && bar.stop(),
    }
  }
}

/** A name with a line end or an escape sequence must not break the table, or the terminal. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about.
const printable = (text: string): string => text.replace(/[\x00-\x1f\x7f-\x9f]/g, '\ufffd')

/** Dates become ISO text by themselves; absent members stay absent; bytes never belong into a document. */
const jsonValue = (_key: string, value: unknown): unknown => (value instanceof Uint8Array ? undefined : value)
