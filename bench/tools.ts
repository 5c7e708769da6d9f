/** Peers are other people's programs: one that is not installed is 'not measured', which is neither a failure nor a pass. */
import { execFile } from 'node:child_process'
import { access } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'

export const run = promisify(execFile)

export async function isInstalled(program: string): Promise<boolean> {
  for (const folder of (process.env.PATH ?? '').split(':')) if (await exists(path.join(folder, program))) return true
  return false
}

export const exists = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  )
