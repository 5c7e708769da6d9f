/** `--config FILE`: YAML with the flags' names. Flags win over the environment, the environment over the file. */
import { readFile } from 'node:fs/promises'
import { parse } from 'yaml'
import { LifeboatError, messageOf } from '../core/errors.ts'

const NAMES = ['repo', 'key-file', 'cache-dir', 'state-dir'] as const
export type ConfigFile = Partial<Readonly<Record<(typeof NAMES)[number], string>>>

export async function readConfigFile(path: string): Promise<ConfigFile> {
  let document: unknown
  try {
    document = parse(await readFile(path, 'utf8'))
  } catch (error) {
    throw new LifeboatError('usage', `the configuration file ${path} cannot be read: ${messageOf(error)}`, {
      hint: 'give another with --config, or mend it',
      cause: error,
    })
  }
  if (document === null || document === undefined) return {}
  if (typeof document !== 'object' || Array.isArray(document))
    throw new LifeboatError('usage', `the configuration file ${path} is not a list of 'name: value' lines`)
  const config: Record<string, string> = {}
  for (const [name, value] of Object.entries(document)) {
    if (!NAMES.some(known => known === name))
      throw new LifeboatError('usage', `${path}: '${name}' is not known`, { hint: `known are ${NAMES.join(', ')}` })
    if (typeof value !== 'string') throw new LifeboatError('usage', `${path}: '${name}' must be a text`)
    config[name] = value
  }
  return config
}
