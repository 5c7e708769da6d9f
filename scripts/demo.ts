/**
 * `npm run demo`: a real VM, backed up while it runs and booted from its backup. Leaves no process, mount or folder behind,
 * also on Ctrl-C; only when something differs or fails, the folder stays for a look.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { endAllOwned, endLeftovers, record } from '../test/guest/process-record.ts'
import { narration } from './demo/narration.ts'
import { tellStory } from './demo/story.ts'

const FLAGS = ['--debian', '--keep']
const unknown = process.argv.slice(2).filter(arg => !FLAGS.includes(arg))
if (unknown.length > 0) {
  process.stderr.write(`npm run demo -- [--debian] [--keep]     not known: ${unknown.join(' ')}\n`)
  process.exit(2)
}

endLeftovers()
const folder = mkdtempSync(join(tmpdir(), 'lifeboat-demo-'))
const forget = record(process.pid, folder)
const remove = (): void => {
  rmSync(folder, { recursive: true, force: true })
  forget()
}

let interrupted = false
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, async () => {
    if (interrupted) return
    interrupted = true
    process.stdout.write('\nstopping: ending what was started\n')
    await endAllOwned()
    remove()
    process.exit(130)
  })
}

const told = narration(text => void process.stdout.write(text))
try {
  const differences = await tellStory({ folder, debian: process.argv.includes('--debian'), narration: told })
  if (differences.length > 0) throw new Error(differences.join('\n'))
  if (process.argv.includes('--keep')) {
    forget()
    process.stdout.write(`\nEverything is as it was; the repository stays in ${folder}\n`)
  } else {
    remove()
    process.stdout.write('\nEverything is as it was.\n')
  }
} catch (error) {
  if (!interrupted) {
    await endAllOwned()
    forget()
    process.stderr.write(
      `\n${error instanceof Error ? error.message : error}\n\nThe folder stays for a look: ${folder}\n`,
    )
    process.exitCode = 1
  }
}
