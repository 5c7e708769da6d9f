import { LifeboatError } from '../core/errors.ts'
import type { Credential } from '../crypto/keys.ts'
import { initRepository } from '../repository/init.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'
import { readOrMakeKeyFile } from './key-files.ts'
import { forgetIdentity } from './repository-identity.ts'
import { formatBytes, parseBytes } from './units.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly chunkSize?: string
  /** False with --no-encryption. */
  readonly encryption: boolean
}

export const initCommand = verb<Flags>({
  syntax: 'init',
  description: 'Make a repository in an empty folder or bucket prefix.',
  examples: [
    '--repo /srv/backup --key-file /root/lifeboat.key init',
    "--repo 's3://backups/site1?endpoint=http://127.0.0.1:7480&path-style=true' --key-file /root/lifeboat.key init",
  ],
  options: command =>
    command
      .option('--chunk-size <size>', 'unit of dedup, 4KiB to 4MiB, a power of two', '64KiB')
      .option('--no-encryption', 'store everything readable by everybody who can read the store'),
  async run(invocation, _words, flags) {
    const { output, surroundings } = invocation
    const { credential, keyFile } = await credentialOf(invocation, flags)
    const { store } = await invocation.openStore({ create: true })
    await using _ = store
    const made = await initRepository({
      store,
      credential,
      chunkSize: parseBytes(flags.chunkSize ?? '64KiB', '--chunk-size'),
      clock: surroundings.clock,
      random: surroundings.random,
      signal: invocation.signal,
    })
    const { repository, format, chunkSize, encryption } = made
    // A repository that was here before is gone by the user's own hand, so what this host remembers of it goes too.
    await forgetIdentity(invocation.stateDir, store.url)
    output.result(
      { repository, format, chunkSize, encryption, store: { url: store.url, ...made.store }, keyFile },
      () => {
        output.line(
          `made repository ${repository} at ${store.url} (format ${format}, chunks of ${formatBytes(chunkSize)})`,
        )
        if (keyFile) output.line(`its key is in ${keyFile}`)
      },
    )
    if (encryption === 'none')
      output.warning('THIS REPOSITORY IS NOT ENCRYPTED: who can read the store can read every disk in it')
    else if (keyFile)
      output.message('Without this key nothing can be restored. Keep a copy of the file somewhere else, now.')
    else output.message('Without the passphrase nothing can be restored. Keep it somewhere else, now.')
    return exitCode.done
  },
})

async function credentialOf(
  invocation: Invocation,
  { encryption }: Flags,
): Promise<{ credential: Credential; keyFile?: string }> {
  const { keyFile, passphrase } = invocation
  if (!encryption) return { credential: { kind: 'none' } }
  if (keyFile) {
    const { secret } = await readOrMakeKeyFile(keyFile, invocation.surroundings.random)
    return { credential: { kind: 'file', secret }, keyFile }
  }
  if (passphrase) return { credential: { kind: 'passphrase', passphrase } }
  throw new LifeboatError('usage', 'an encrypted repository needs a key', {
    hint: 'give --key-file FILE (it is made), or set LIFEBOAT_PASSPHRASE, or say --no-encryption',
  })
}
