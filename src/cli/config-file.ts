/** `--config FILE`: YAML with the flags' names. Flags win over the environment, the environment over the file. */
import { LifeboatError, messageOf } from '../core/errors.ts'
import { KiB } from '../core/limits.ts'
import { type PriceList, parsePrices } from '../storage/prices.ts'
import { KEY_SETTINGS } from './credentials.ts'
import { readSmallFile } from './host-files.ts'

/** It has a handful of names. */
const CONFIG_FILE_MAX = 64 * KiB

const NAMES = ['repo', 'cache-dir', 'state-dir', ...KEY_SETTINGS] as const
export type ConfigFile = Partial<Readonly<Record<(typeof NAMES)[number], string>>> & { readonly prices?: PriceList }

export async function readConfigFile(path: string): Promise<ConfigFile> {
  let document: unknown
  // Most runs have no such file, and the parser is 72 modules.
  const { parse } = await import('yaml')
  try {
    document = parse(await readSmallFile(path, CONFIG_FILE_MAX))
  } catch (error) {
    throw new LifeboatError(
      'usage',
      `the configuration file ${path} cannot be read: ${messageOf(error).split('\n')[0]}`,
      {
        hint: 'give another with --config, or mend it',
        cause: error,
      },
    )
  }
  if (document === null || document === undefined) return {}
  if (typeof document !== 'object' || Array.isArray(document))
    throw new LifeboatError('usage', `the configuration file ${path} is not a list of 'name: value' lines`, {
      hint: `for example: repo: /srv/backup; known are ${NAMES.join(', ')}`,
    })
  const config: Record<string, string> = {}
  let prices: PriceList | undefined
  for (const [name, value] of Object.entries(document)) {
    if (name === 'prices') {
      prices = parsePrices(value)
      continue
    }
    if (!NAMES.some(known => known === name))
      throw new LifeboatError('usage', `${path}: '${name}' is not known`, {
        hint: `known are ${NAMES.join(', ')}, prices`,
      })
    if (typeof value !== 'string')
      throw new LifeboatError('usage', `${path}: '${name}' must be a text`, {
        hint: `put it in quotes: ${name}: "..."`,
      })
    config[name] = value
  }
  return { ...config, ...(prices && { prices }) }
}
