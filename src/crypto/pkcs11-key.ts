/**
 * An AES key in a PKCS#11 token, which never leaves it. The token's module is a library of somebody else's that may hang or crash, so it
 * is loaded in a process of its own (pkcs11-child.ts), bounded like a key command.
 */
import path from 'node:path'
import { unhex } from '../core/ids.ts'
import { placeAad } from './aad.ts'
import { runKeyProgram } from './key-program.ts'
import type { KeptCredential, KeyPlace } from './keys.ts'

/** All of it from the host; the PIN goes to the child's stdin, where no list of processes shows it. */
export interface TokenKey {
  /** The path of the module, for example /usr/lib/softhsm/libsofthsm2.so. */
  readonly module: string
  readonly token: string
  readonly key: string
  readonly pin?: string
}

export interface TokenRequest extends TokenKey {
  readonly verb: 'wrap' | 'unwrap'
  /** Hex. */
  readonly aad: string
  readonly data: string
}

export function tokenKey(token: TokenKey, environment: Readonly<Record<string, string | undefined>>): KeptCredential {
  const ask = async (
    verb: TokenRequest['verb'],
    data: Uint8Array,
    { repository, slot }: KeyPlace,
    options?: { readonly signal?: AbortSignal },
  ): Promise<Uint8Array> => {
    // .ts when run from the sources, .js when built.
    const program = path.join(import.meta.dirname, `pkcs11-child${path.extname(import.meta.filename)}`)
    const aad = placeAad(repository, new TextEncoder().encode('key token\0'), unhex(slot))
    const request: TokenRequest = {
      ...token,
      verb,
      aad: Buffer.from(aad).toString('hex'),
      data: Buffer.from(data).toString('hex'),
    }
    const input = new TextEncoder().encode(JSON.stringify(request))
    const name = `The key ${token.key} of token ${token.token}`
    return runKeyProgram({ name, argv: [process.execPath, program], environment }, [], input, options)
  }
  return {
    kind: 'pkcs11',
    label: `${token.token}/${token.key}`,
    keeper: {
      wrap: (secret, place, options) => ask('wrap', secret, place, options),
      unwrap: (blob, place, options) => ask('unwrap', blob, place, options),
    },
  }
}
