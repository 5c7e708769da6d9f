/** `--keep-daily 7` and the like, which prune and policy share. */
import type { Command } from 'commander'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { KEEP_COUNTS, type KeepCount, type RetentionPolicy } from '../maintenance/retention.ts'

export type RetentionFlags = { readonly [count in KeepCount]?: string } & { readonly timeZone?: string }

export function retentionOptions(command: Command): Command {
  return command
    .option('--keep-last <n>', 'the last n points')
    .option('--keep-hourly <n>', 'the newest of each of the last n hours that have a point')
    .option('--keep-daily <n>', 'likewise days')
    .option('--keep-weekly <n>', 'likewise weeks (from Monday, ISO 8601)')
    .option('--keep-monthly <n>', 'likewise months')
    .option('--keep-yearly <n>', 'likewise years')
    .option('--time-zone <zone>', 'in which days begin, for example Europe/Berlin (that of this host, TZ)')
}

/** Undefined where no flag was given. */
export function retentionOf(flags: RetentionFlags): RetentionPolicy | undefined {
  const counts = KEEP_COUNTS.flatMap(count => {
    const text = flags[count]
    return text === undefined ? [] : [[count, parseCount(text, count)] as const]
  })
  const { timeZone } = flags
  if (counts.length > 0) return { ...Object.fromEntries(counts), ...(timeZone === undefined ? {} : { timeZone }) }
  if (timeZone === undefined) return undefined
  throw new LifeboatError('usage', '--time-zone alone says nothing of what to keep', {
    hint: 'add for example --keep-daily 7',
  })
}

function parseCount(text: string, count: KeepCount): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN
  if (value <= limits.keepCountMax) return value
  throw new LifeboatError(
    'usage',
    `${flagOf(count)} '${text.slice(0, 40)}' is no number from 0 to ${limits.keepCountMax}`,
    {
      hint: `for example ${flagOf(count)} 7`,
    },
  )
}

const flagOf = (count: KeepCount): string => `--${count.replace(/[A-Z]/, letter => `-${letter.toLowerCase()}`)}`
