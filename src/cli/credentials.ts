/** Which key opens the repository: from flags, environment and configuration file of this host, never from the store. */
import path from 'node:path'
import type { Command } from 'commander'
import { LifeboatError } from '../core/errors.ts'
import { KiB } from '../core/limits.ts'
import type { Credential } from '../crypto/keys.ts'
import { readSmallFile } from './host-files.ts'
import { readKeyFile } from './key-files.ts'

/** Settings of keys: the names of the configuration file; as flags with '--', in the environment as LIFEBOAT_KEY_FILE. */
export const KEY_SETTINGS = [
  'key-file',
  'key-command',
  'pkcs11-key',
  'pkcs11-token',
  'pkcs11-module',
  'pkcs11-pin-file',
] as const
export type KeySetting = (typeof KEY_SETTINGS)[number]

export const keyOptions = (command: Command): Command =>
  command
    .option('--key-file <file>', 'key of an encrypted repository (LIFEBOAT_KEY_FILE; or LIFEBOAT_PASSPHRASE)')
    .option('--key-command <command>', 'program that wraps and unwraps a key, say by a KMS (LIFEBOAT_KEY_COMMAND)')
    .option('--pkcs11-key <label>', 'AES key in a PKCS#11 token (LIFEBOAT_PKCS11_KEY)')
    .option('--pkcs11-token <label>', 'the token (LIFEBOAT_PKCS11_TOKEN)')
    .option('--pkcs11-module <file>', "the token's module (LIFEBOAT_PKCS11_MODULE)")
    .option('--pkcs11-pin-file <file>', 'its PIN, in a file (LIFEBOAT_PKCS11_PIN_FILE; or LIFEBOAT_PKCS11_PIN)')

export type KeySource =
  | { readonly kind: 'file'; readonly keyFile: string }
  | { readonly kind: 'command'; readonly command: string }
  | { readonly kind: 'pkcs11'; readonly key: string }
  | { readonly kind: 'passphrase'; readonly passphrase: string }

export interface KeySettings {
  readonly environment: Readonly<Record<string, string | undefined>>
  /** From one place: what was said with a flag, in the environment, in the file; in this order. */
  readonly levels: readonly ((name: KeySetting) => string | undefined)[]
}

export const keySettings = (
  flags: Readonly<Record<string, unknown>>,
  environment: KeySettings['environment'],
  config: Partial<Readonly<Record<KeySetting, string>>>,
): KeySettings => {
  const flag = (name: KeySetting) => {
    const value = flags[name.replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase())]
    return typeof value === 'string' ? value : undefined
  }
  const variable = (name: KeySetting) => environment[`LIFEBOAT_${name.toUpperCase().replaceAll('-', '_')}`] || undefined
  return { environment, levels: [flag, variable, name => config[name]] }
}

const settingOf = ({ levels }: KeySettings, name: KeySetting): string | undefined =>
  levels.map(level => level(name)).find(value => value !== undefined)

/** The nearest place that names a key decides; a passphrase only where none does. */
export function keySource(settings: KeySettings): KeySource | undefined {
  for (const [n, level] of settings.levels.entries()) {
    const [keyFile, command, key] = [level('key-file'), level('key-command'), level('pkcs11-key')]
    if (n === 0 && [keyFile, command, key].filter(value => value !== undefined).length > 1)
      throw new LifeboatError('usage', 'more than one key was named', {
        hint: 'one key opens the repository: name one',
      })
    if (keyFile) return { kind: 'file', keyFile }
    if (command) return { kind: 'command', command }
    if (key) return { kind: 'pkcs11', key }
  }
  const passphrase = settings.environment.LIFEBOAT_PASSPHRASE
  return passphrase ? { kind: 'passphrase', passphrase } : undefined
}

export async function credentialOf(source: KeySource, settings: KeySettings): Promise<Credential> {
  switch (source.kind) {
    case 'file':
      return { kind: 'file', secret: await readKeyFile(source.keyFile) }
    case 'passphrase':
      return source
    case 'command': {
      const { commandKey } = await import('../crypto/key-command.ts')
      const argv = wordsOf(source.command)
      return commandKey({ argv, environment: withoutSecrets(settings.environment) }, path.basename(argv[0] ?? ''))
    }
    case 'pkcs11': {
      const { tokenKey } = await import('../crypto/pkcs11-key.ts')
      const module = needed(settings, 'pkcs11-module')
      const token = needed(settings, 'pkcs11-token')
      const pin = await pinOf(settings)
      return tokenKey({ module, token, key: source.key, pin }, withoutSecrets(settings.environment))
    }
  }
}

/** No shell: words are divided at blanks; a JSON list of words has any others. */
function wordsOf(command: string): readonly string[] {
  if (!command.startsWith('[')) return command.split(/\s+/).filter(word => word !== '')
  let words: unknown
  try {
    words = JSON.parse(command)
  } catch {}
  if (Array.isArray(words) && words.length > 0 && words.every((word): word is string => typeof word === 'string'))
    return words
  throw new LifeboatError('usage', `the key command ${command.slice(0, 80)} is no list of words`, {
    hint: 'write the program and its words with blanks between, or as a JSON list: ["/usr/local/bin/kms", "a b"]',
  })
}

/** What the program needs of the environment is the host's business; the secrets of other keys are not. */
const withoutSecrets = (environment: KeySettings['environment']): KeySettings['environment'] =>
  Object.fromEntries(Object.entries(environment).filter(([name]) => !/^LIFEBOAT_.*(PASSPHRASE|PIN)$/.test(name)))

function needed(settings: KeySettings, name: 'pkcs11-module' | 'pkcs11-token'): string {
  const value = settingOf(settings, name)
  if (value) return value
  throw new LifeboatError('usage', `a key in a token was named without --${name}`, {
    hint: 'give --pkcs11-module FILE, --pkcs11-token LABEL and --pkcs11-key LABEL, or their LIFEBOAT_PKCS11_ variables',
  })
}

async function pinOf(settings: KeySettings): Promise<string | undefined> {
  const file = settingOf(settings, 'pkcs11-pin-file')
  if (file === undefined) return settings.environment.LIFEBOAT_PKCS11_PIN
  return (await readSmallFile(file, 4 * KiB)).replace(/\r?\n$/, '')
}
