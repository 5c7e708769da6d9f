import { LifeboatError } from '../core/errors.ts'
import { readAuditLog } from '../maintenance/audit-log.ts'
import { exitCode } from './exit-code.ts'
import { parseSince } from './since.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly limit?: string
  readonly since?: string
}

export const logCommand = verb<Flags>({
  syntax: 'log',
  isQuery: true,
  description: 'What was done to the repository: forget, hold, key, policy and gc actions, newest last.',
  examples: ['--repo /srv/backup log --limit 20', '--repo /srv/backup log --since 7d --json'],
  options: command =>
    command
      .option('--limit <n>', 'the newest n entries', '100')
      .option('--since <time>', 'a time (2026-11-21T10:00, of this host) or how long ago (7d)'),
  async run(invocation, _words, { limit = '100', since }) {
    const { output, signal, surroundings } = invocation
    const bounds = {
      limit: parseLimit(limit),
      since: since === undefined ? undefined : parseSince(since, surroundings.clock.now(), '--since'),
    }
    await using opened = await invocation.openRepository()
    const { entries, damaged, earlier } = await readAuditLog(opened.repository.reading, { ...bounds, signal })
    output.result({ entries, damaged, earlier }, () =>
      entries.length === 0
        ? output.line('no entries')
        : output.table(
            [{ title: 'WHEN' }, { title: 'WHO' }, { title: 'ACTION' }, { title: 'DETAILS' }],
            entries.map(({ when, who, action, details }) => [when.toISOString(), who, action, JSON.stringify(details)]),
          ),
    )
    if (earlier > 0) output.message(`${earlier} earlier entries: --limit shows more`)
    for (const key of damaged) output.warning(`${key} does not authenticate: what was done then is not known`)
    return damaged.length === 0 ? exitCode.done : exitCode.integrity
  },
})

function parseLimit(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text)
  throw new LifeboatError('usage', `--limit '${text.slice(0, 40)}' is no number of entries`, {
    hint: 'for example --limit 20',
  })
}
