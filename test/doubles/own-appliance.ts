/** The appliance as a test has it: its image in the tests' cache, the rest in a folder that goes with the test. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { nbdExporter } from '../../src/cli/nbd-exporter.ts'
import { systemClock } from '../../src/core/clock.ts'
import { type ApplianceGuestsOptions, applianceGuests } from '../../src/guest/appliance.ts'
import type { OpenGuest } from '../../src/guest/guest-filesystems.ts'
import { cacheFolder } from '../guest/recipe-cache.ts'

export interface OwnAppliance extends Disposable {
  readonly open: OpenGuest
}

export function ownAppliance(options: Partial<ApplianceGuestsOptions> = {}): OwnAppliance {
  const folder = mkdtempSync(join(tmpdir(), 'lifeboat-appliance-'))
  const place = (name: string): string => {
    mkdirSync(join(folder, name))
    return join(folder, name)
  }
  let guests = 0
  const open = applianceGuests({
    exporter: nbdExporter(systemClock, { message: () => {} }),
    clock: systemClock,
    cacheDir: join(cacheFolder(), 'appliance'),
    stateDir: place('state'),
    runDir: place('run'),
    treePrefix: () => `appliance-${++guests}`,
    accelerator: 'tcg',
    tell: message => console.log(message),
    ...options,
  })
  return { open, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) }
}
