/** What the person sees: one line for each step with the seconds since the start, and tables at the end. */
export interface Narration {
  step(text: string): void
  /** A command line that is about to run. */
  command(line: string): void
  table(title: string, header: readonly string[], rows: readonly (readonly string[])[]): void
}

export function narration(write: (text: string) => void): Narration {
  const start = performance.now()
  const line = (text: string): void =>
    write(`${((performance.now() - start) / 1000).toFixed(1).padStart(6)} s  ${text}\n`)
  return {
    step: line,
    command: text => line(`  $ ${text}`),
    table(title, header, rows) {
      const widths = header.map((name, column) => Math.max(name.length, ...rows.map(row => (row[column] ?? '').length)))
      const shown = [header, ...rows].map(row =>
        row
          .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
          .join('   '),
      )
      write(`\n${title}\n${shown.map(text => `  ${text.trimEnd()}\n`).join('')}`)
    },
  }
}

/** Two digits are enough to compare by eye. */
export function mebibytes(bytes: number): string {
  const inMiB = bytes / 1024 / 1024
  return `${inMiB < 10 ? inMiB.toFixed(2) : inMiB.toFixed(1)} MiB`
}

export const seconds = (value: number): string => `${value.toFixed(1)} s`
