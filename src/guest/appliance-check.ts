/** Whether this host can open guests' filesystems with the appliance, for `doctor`. Looks only: nothing is built. */
import { access } from 'node:fs/promises'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Check } from '../recovery/doctor.ts'
import { runTool } from '../recovery/external-tool.ts'
import { builtAppliance } from './appliance-image.ts'
import { AGENT_PROGRAM } from './guest-programs.ts'

interface ApplianceCheck extends AbortOptions {
  readonly cacheDir: string
  readonly clock: Clock
  readonly agent?: string
}

/** Hostile filesystems are read by its kernel: after so long Debian has mended some of that. */
const OLD_MS = 120 * 24 * 3_600_000

export async function applianceCheck({
  cacheDir,
  clock,
  agent = AGENT_PROGRAM,
  signal,
}: ApplianceCheck): Promise<Check> {
  const name = 'appliance'
  const hasAgent = await access(agent).then(
    () => true,
    () => false,
  )
  if (!hasAgent)
    return { name, status: 'warn', found: 'its agent was not built', advice: 'Build it: npm run build (needs g++).' }
  const built = await builtAppliance(cacheDir)
  if (!built) return await notBuilt(name, { signal })
  const kernel = /^linux-image-(.*?)_/m.exec(built.versions)?.[1] ?? 'an unknown kernel'
  const found = `built ${built.builtAt.toISOString().slice(0, 10)} with kernel ${kernel}`
  if (clock.now().getTime() - built.builtAt.getTime() < OLD_MS) return { name, status: 'ok', found }
  const advice = `Remove ${path.join(cacheDir, 'appliance-*')}: the next use builds it anew, with Debian's security updates.`
  return { name, status: 'warn', found, advice }
}

async function notBuilt(name: string, { signal }: AbortOptions): Promise<Check> {
  const missing: string[] = []
  for (const command of ['apt-get', 'dpkg-deb', 'prlimit', 'setpriv'])
    await runTool(command, ['--version'], { signal }).catch(() => missing.push(command))
  signal?.throwIfAborted()
  if (missing.length === 0)
    return { name, status: 'ok', found: 'not built yet: the first use fetches 42 MiB of packages and takes a minute' }
  return {
    name,
    status: 'warn',
    found: `not built, and ${missing.join(', ')} is not there`,
    advice: 'Needed to read XFS, Btrfs, LVM and encrypted volumes inside guests: use a host with Debian.',
  }
}
