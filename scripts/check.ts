/**
 * `npm run check`: types, style, the import table and unused code. `npm run lint`: style alone, and `-- --fix` repairs.
 * Each part is a program of its own; all of them run, so that one look shows everything that is wrong.
 */
import { spawnSync } from 'node:child_process'

interface Part {
  readonly says: string
  readonly command: readonly string[]
}

const [kind = 'all', ...args] = process.argv.slice(2)

const style: Part = {
  says: 'format and style (biome)',
  command: [
    'node_modules/@biomejs/biome/bin/biome',
    'check',
    '--error-on-warnings',
    ...(args.includes('--fix') ? ['--write'] : []),
  ],
}

const parts: readonly Part[] =
  kind === 'lint'
    ? [style]
    : [
        { says: 'types (tsc)', command: ['node_modules/typescript/bin/tsc', '-p', '.'] },
        style,
        {
          says: 'import table and layout',
          command: ['--test', '--test-reporter=dot', 'test/architecture.test.ts'],
        },
        { says: 'unused code (knip)', command: ['node_modules/knip/bin/knip.js', '--no-progress'] },
      ]

const failed = parts.filter(({ says, command }) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, command, {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  const ok = status === 0
  process.stdout.write(`${ok ? 'ok    ' : 'FAILED'} ${says}\n`)
  if (!ok) process.stdout.write(`${stdout}${stderr}\n`)
  return !ok
})
process.exitCode = failed.length === 0 ? 0 : 1
