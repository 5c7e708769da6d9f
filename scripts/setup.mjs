#!/usr/bin/env node
/**
 * Puts in place what a task needs: Debian packages, npm packages (Node 24 among them) and the addon. Each step is
 * idempotent, quick when nothing is to do, and repairs what an interrupted run left. Nothing here reaches for anything but
 * Debian's and npm's registries.
 *
 * As a program it does the set-up for all tasks: `npm run setup`.
 */
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAddon } from './setup/addon.mjs'
import { installDebianPackages, missingPackages } from './setup/debian-packages.mjs'
import { installNpmPackages, npmPackagesAreCurrent } from './setup/npm-packages.mjs'
import { SetupError, say } from './setup/say.mjs'
import { withSetupLock } from './setup/setup-lock.mjs'
import { buildTokenAddon } from './setup/token-addon.mjs'
import { PACKAGE_GROUPS } from './tasks.mjs'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))

export async function setUp({ groups, addon }) {
  if (process.platform !== 'linux')
    throw new SetupError('Lifeboat protects virtual machines on Linux hosts; this machine runs something else.')
  await withSetupLock(join(root, '.cache', 'setup.lock'), async () => {
    if (missingPackages(groups).length > 0) await installDebianPackages(groups)
    if (!npmPackagesAreCurrent(root)) await installNpmPackages(root)
    if (addon) await buildAddon(root)
    if (addon) await buildTokenAddon(root)
  })
}

/** A failure that the person can put right is a message and exit code 2; anything else is a fault of ours. */
export function explain(error) {
  if (!(error instanceof SetupError)) throw error
  say(`\n${error.message}`)
  process.exit(2)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await setUp({ groups: Object.keys(PACKAGE_GROUPS), addon: true }).catch(explain)
  say('everything is in place')
}
