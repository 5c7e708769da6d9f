import type { KeptCredential } from '../../src/crypto/keys.ts'

const masked = async (bytes: Uint8Array): Promise<Uint8Array> => bytes.map(byte => byte ^ 0x5a)

/** Keeps a key for test/golden/format-1-keys, where what it does must not change. */
export const goldenKeeper: KeptCredential = {
  kind: 'command',
  label: 'golden kms',
  keeper: { wrap: masked, unwrap: masked },
}
