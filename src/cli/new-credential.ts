/** The key that `key add` and `key rotate` make: its kind, and where it comes from. */
import { LifeboatError } from '../core/errors.ts'
import type { Credential } from '../crypto/keys.ts'
import { credentialOf, type KeySetting } from './credentials.ts'
import { askHidden } from './hidden-prompt.ts'
import type { Invocation } from './invocation.ts'
import { readOrMakeKeyFile } from './key-files.ts'

export interface NewKeyFlags {
  readonly type?: string
  readonly newKeyFile?: string
  readonly newKeyCommand?: string
  readonly newPkcs11Key?: string
}

const KINDS = ['file', 'passphrase', 'command', 'pkcs11'] as const
type Kind = (typeof KINDS)[number]

/** A key file is made here, durably, before any slot refers to it. */
export async function newCredential(
  invocation: Invocation,
  opening: Credential,
  flags: NewKeyFlags,
): Promise<{ readonly credential: Credential; readonly keyFile?: string }> {
  const { keySettings: settings, surroundings } = invocation
  const kind = kindOf(flags, opening)
  const given = (name: KeySetting) => settings.levels.map(level => level(name)).find(value => value !== undefined)
  if (kind === 'file') {
    if (!flags.newKeyFile) throw missing(kind, '--new-key-file FILE', 'it is made if it is not there')
    const { secret } = await readOrMakeKeyFile(flags.newKeyFile, surroundings.random)
    return { credential: { kind, secret }, keyFile: flags.newKeyFile }
  }
  if (kind === 'passphrase') return { credential: { kind, passphrase: await newPassphrase(invocation) } }
  if (kind === 'command') {
    const command = flags.newKeyCommand ?? given('key-command')
    if (!command) throw missing(kind, '--new-key-command COMMAND', 'a program that wraps and unwraps')
    return { credential: await credentialOf({ kind, command }, settings) }
  }
  const key = flags.newPkcs11Key ?? given('pkcs11-key')
  if (!key) throw missing(kind, '--new-pkcs11-key LABEL', 'the label of an AES key in the token')
  return { credential: await credentialOf({ kind, key }, settings) }
}

/** As said; else as the flags show; else as the key that opened the repository. */
function kindOf({ type, newKeyFile, newKeyCommand, newPkcs11Key }: NewKeyFlags, opening: Credential): Kind {
  const kind = KINDS.find(known => known === type)
  if (type !== undefined && !kind)
    throw new LifeboatError('usage', `--type ${type} is not known`, { hint: `known are ${KINDS.join(', ')}` })
  const shown: readonly Kind[] = [
    ...(newKeyFile ? (['file'] as const) : []),
    ...(newKeyCommand ? (['command'] as const) : []),
    ...(newPkcs11Key ? (['pkcs11'] as const) : []),
  ]
  if (shown.length > 1 || (kind && shown[0] && shown[0] !== kind))
    throw new LifeboatError('usage', 'more than one new key was named', { hint: 'make one after the other' })
  return kind ?? shown[0] ?? (opening.kind === 'none' ? 'file' : opening.kind)
}

const missing = (kind: Kind, flag: string, what: string): LifeboatError =>
  new LifeboatError('usage', `a new key of type ${kind} needs ${flag}`, { hint: `${flag}: ${what}` })

async function newPassphrase({ surroundings, signal }: Invocation): Promise<string> {
  const set = surroundings.environment.LIFEBOAT_NEW_PASSPHRASE
  if (set) return set
  if (!surroundings.stderr.isTTY || !process.stdin.isTTY)
    throw new LifeboatError('usage', 'there is no terminal to ask for the new passphrase', {
      hint: 'set LIFEBOAT_NEW_PASSPHRASE',
    })
  const first = await askHidden('new passphrase: ', surroundings.stderr, signal)
  if (first !== '' && first === (await askHidden('once more: ', surroundings.stderr, signal))) return first
  throw new LifeboatError('usage', first === '' ? 'an empty passphrase protects nothing' : 'the two differ', {
    hint: 'try again',
  })
}
