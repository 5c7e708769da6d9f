/** The only loader of the .node file. */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { LifeboatError } from '../core/errors.ts'
import type { Addon } from './addon.ts'
import { addonPipeline } from './addon-pipeline.ts'
import type { Pipeline } from './pipeline.ts'

/** Equal to kVersion in native/addon.cc. */
const VERSION = 8
/** The same from src/native and from dist/native. */
const ADDON = fileURLToPath(new URL('../../build/lifeboat.node', import.meta.url))

let loaded: Addon | undefined

/** Throws 'tool-missing' where the addon is not built or does not fit this Node. */
export function loadAddon(): Addon {
  loaded ??= load(ADDON)
  return loaded
}

/** The pipeline of the addon. Throws as `loadAddon` does. */
export const loadPipeline = (): Pipeline => addonPipeline(loadAddon())

function load(path: string): Addon {
  try {
    const addon: Addon = createRequire(import.meta.url)(path)
    if (addon.version === VERSION) return addon
  } catch (cause) {
    throw unusable(path, 'cannot be loaded', cause)
  }
  throw unusable(path, 'is of another version')
}

const unusable = (path: string, what: string, cause?: unknown): LifeboatError =>
  new LifeboatError('tool-missing', `The addon ${path} ${what}`, {
    details: { object: path },
    hint: 'Run `npm run build`; it needs the Debian packages g++ and libzstd-dev.',
    cause,
  })
