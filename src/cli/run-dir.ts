/** A short folder for sockets: sun_path holds 107 bytes, and a session's own folder may be longer. */
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Invocation } from './invocation.ts'

export function runDirOf({ surroundings }: Invocation): string {
  const { environment } = surroundings
  if (process.getuid?.() === 0) return '/run/lifeboat'
  if (environment.XDG_RUNTIME_DIR) return path.join(environment.XDG_RUNTIME_DIR, 'lifeboat')
  return path.join(tmpdir(), `lifeboat-${process.getuid?.() ?? 0}`)
}
