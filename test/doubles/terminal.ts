/** A program on a terminal of its own (`script` of util-linux): what it shows is read, keys are typed when a text has come. */
import { spawn } from 'node:child_process'

export interface Keystroke {
  /** Typed when this has been shown, after what was typed before. */
  readonly after: string
  readonly keys: string
}

/** All that was shown, and the exit code, which is what the shell says of the program. */
export async function onTerminal(
  words: readonly string[],
  keystrokes: readonly Keystroke[],
  environment: Readonly<Record<string, string | undefined>>,
): Promise<{ readonly shown: string; readonly code: number | null }> {
  const quoted = words.map(word => `'${word.replaceAll("'", "'\\''")}'`).join(' ')
  const child = spawn('script', ['--quiet', '--return', '--command', quoted, '/dev/null'], {
    env: { ...environment, SHELL: '/bin/sh' },
    stdio: ['pipe', 'pipe', 'inherit'],
    signal: AbortSignal.timeout(60_000),
  })
  let shown = ''
  let from = 0
  const left = [...keystrokes]
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    shown += text
    for (let [next] = left; next; [next] = left) {
      const at = shown.indexOf(next.after, from)
      if (at < 0) return
      from = at + next.after.length
      left.shift()
      child.stdin.write(next.keys)
    }
  })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (left.length > 0) throw new Error(`'${left[0]?.after}' was never shown: ${shown}`)
  return { shown, code }
}
