/** Processes that share one cache on disk, most of them killed in the middle of it. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { TestContext } from 'node:test'
import type { Random } from '../../src/core/random.ts'
import type { CacheChildSaw } from './cache-child.ts'

export interface SharedCacheRun {
  readonly rounds: number
  /** At once. */
  readonly processes: number
  readonly maxBytes: number
  readonly records: number
  readonly random: Random
}

/** None of them reads a wrong byte or fails, and the bound holds over all, dead ones included; `least` says that enough happened. */
export async function surviveKills(
  t: TestContext,
  run: SharedCacheRun,
  least: { readonly killed: number; readonly right: number; readonly absent: number },
): Promise<void> {
  const seen = await shareAndKill(run)
  t.diagnostic(`killed ${seen.killed} processes: ${JSON.stringify(seen)}`)
  for (const what of ['killed', 'right', 'absent'] as const) assert.ok(seen[what] >= least[what], `${what} too few`)
  assert.deepEqual([seen.wrong, seen.errors, seen.crashed], [0, 0, 0])
  assert.ok(seen.largest <= run.maxBytes, `${seen.largest} bytes on the disk`)
}

/** What all processes saw together, and the most that all segments took on the disk between rounds. */
async function shareAndKill({ rounds, processes, maxBytes, records, random }: SharedCacheRun) {
  const folder = mkdtempSync(path.join(tmpdir(), 'lifeboat-cache-'))
  const total = { right: 0, absent: 0, wrong: 0, errors: 0, killed: 0, crashed: 0, largest: 0 }
  try {
    for (let round = 0; round < rounds; round++) {
      const isLast = round === rounds - 1
      await Promise.all(
        Array.from({ length: processes }, async (_, n) => {
          const victim = !isLast && n > 0
          const program = path.join(import.meta.dirname, 'cache-child.ts')
          const words = [program, folder, `${maxBytes}`, `${records}`, victim ? '1000000' : '300']
          const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
          let said = ''
          const delayMs = 20 + (Buffer.from(random(2)).readUInt16BE(0) % 400)
          child.stdout.on('data', (bytes: Buffer) => {
            if (said === '' && victim) setTimeout(() => child.kill('SIGKILL'), delayMs)
            said += bytes
          })
          const signal = await new Promise(resolve => child.once('close', (_code, by) => resolve(by)))
          if (signal === 'SIGKILL') total.killed++
          else if (child.exitCode !== 0) total.crashed++
          const last = said.split('\n').findLast(line => line.startsWith('{') && line.endsWith('}'))
          const seen: Partial<CacheChildSaw> = JSON.parse(last ?? '{}')
          for (const what of ['right', 'absent', 'wrong', 'errors'] as const) total[what] += seen[what] ?? 0
        }),
      )
      const sizes = await Promise.all((await readdir(folder)).map(name => stat(path.join(folder, name))))
      total.largest = Math.max(
        total.largest,
        sizes.reduce((sum, { blocks }) => sum + blocks * 512, 0),
      )
    }
    return total
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
