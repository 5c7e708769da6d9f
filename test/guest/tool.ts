import { startOwned } from './process-record.ts'

/** Debian keeps mkfs and sgdisk where a plain user's PATH does not look. */
const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C.UTF-8', TZ: 'UTC' }

/** Runs a program to its end and resolves to its standard output; throws with all that it said when it fails. */
export async function tool(command: string, ...args: readonly string[]): Promise<string> {
  const { ended, output, log } = startOwned(command, args, { env, lastSignal: 'SIGTERM' })
  const { code, signal } = await ended
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${signal ?? code}:\n${log()}`)
  return output()
}

/** Runs a shell script with `args` as $1, $2, ... */
export const shell = (script: string, ...args: readonly string[]): Promise<string> =>
  tool('sh', '-euc', script, 'sh', ...args)

/** A private, writable, sparse copy of an image. */
export const copyImage = (from: string, to: string): Promise<string> =>
  shell('cp --sparse=always --reflink=auto --no-preserve=mode "$1" "$2"', from, to)
