import { rm } from 'node:fs/promises'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import type { Credential } from '../crypto/keys.ts'
import { initRepository } from '../repository/init.ts'
import { checkLockPolicy, days, type LockPolicy } from '../repository/lock-policy.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { credentialOf } from './credentials.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'
import { readOrMakeKeyFile } from './key-files.ts'
import { forgetIdentity } from './repository-identity.ts'
import { formatBytes, parseBytes, parseDurationMs } from './units.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly chunkSize?: string
  /** False with --no-encryption. */
  readonly encryption: boolean
  readonly lockMode?: string
  readonly lockFor?: string
  readonly renewEvery?: string
}

export const initCommand = verb<Flags>({
  syntax: 'init',
  description: 'Make a repository in an empty folder or bucket prefix.',
  examples: [
    '--repo /srv/backup --key-file /etc/lifeboat/key init',
    "--repo 's3://backups/site1?endpoint=http://127.0.0.1:7480&path-style=true' --key-file /etc/lifeboat/key init",
    "--repo 's3://locked-bucket/site1' --key-file /etc/lifeboat/key init --lock-mode compliance --lock-for 30d --renew-every 7d",
  ],
  options: command =>
    command
      .option('--chunk-size <size>', 'unit of dedup, 4KiB to 4MiB, a power of two', '64KiB')
      .option('--lock-mode <mode>', 'compliance: nobody can remove what is locked; governance: only who may bypass it')
      .option('--lock-for <duration>', 'how long points are immutable, for example 30d; renewed while they are kept')
      .option('--renew-every <duration>', 'how often `lifeboat lock renew` will run (a quarter of --lock-for)')
      .option('--no-encryption', 'store everything readable by everybody who can read the store'),
  async run(invocation, _words, flags) {
    const { output, surroundings } = invocation
    const chunkSize = parseBytes(flags.chunkSize ?? '64KiB', '--chunk-size')
    const lock = lockOf(flags)
    const key = keyOf(invocation, flags)
    const { store } = await invocation.openStore({ create: true })
    await using _ = store
    const made = await initRepository({
      store,
      credential: key.credential,
      chunkSize,
      lock,
      clock: surroundings.clock,
      random: surroundings.random,
      signal: invocation.signal,
    }).catch(error => withoutKeyFile(invocation, store, key, error))
    const { keyFile } = key
    const { repository, format, encryption } = made
    // A repository that was here before is gone by the user's own hand, so what this host remembers of it goes too.
    await forgetIdentity(invocation.stateDir, store.url)
    output.result(
      { repository, format, chunkSize, encryption, store: { url: store.url, ...made.store }, lock, keyFile },
      () => {
        output.line(
          `made repository ${repository} at ${store.url} (format ${format}, chunks of ${formatBytes(chunkSize)})`,
        )
        if (lock)
          output.line(
            `${lock.mode}: what is stored is immutable for ${days(lock.forMs)}; run \`lifeboat lock renew\` every ${days(lock.renewEveryMs)}`,
          )
        if (keyFile) output.line(`its key is in ${keyFile}`)
      },
    )
    if (encryption === 'none')
      output.warning('THIS REPOSITORY IS NOT ENCRYPTED: who can read the store can read every disk in it')
    else tellOfKey(invocation, store.url, keyFile)
    return exitCode.done
  },
})

/** Losing the only key is losing everything, and it is easily done. */
function tellOfKey({ output, keySource: source }: Invocation, url: string, keyFile: string | undefined): void {
  const what = {
    file: 'Without this key nothing can be restored. Keep a copy of the file somewhere else, now.',
    passphrase: 'Without the passphrase nothing can be restored. Keep it somewhere else, now.',
    command: 'Without the key behind the key command nothing can be restored: not even if all disks are there.',
    pkcs11: 'Without the token and its PIN nothing can be restored: not even if all disks are there.',
  }
  output.message(what[source?.kind ?? 'file'])
  const second = source?.kind === 'file' ? '--type passphrase' : '--type file --new-key-file FILE'
  const opening = keyFile ? ` --key-file ${keyFile}` : ''
  output.message(
    `A second key, kept elsewhere, opens it if this one is lost: lifeboat --repo '${url}'${opening} key add ${second}`,
  )
}

/** Without --renew-every a quarter: three renewals may fail before anything ends. */
function lockOf({ lockMode, lockFor, renewEvery }: Flags): LockPolicy | undefined {
  if (lockMode === undefined && lockFor === undefined && renewEvery === undefined) return undefined
  if (lockMode !== 'compliance' && lockMode !== 'governance')
    throw new LifeboatError('usage', lockMode ? `--lock-mode ${lockMode} is not known` : '--lock-mode is missing', {
      hint: 'write --lock-mode compliance (nobody can shorten it) or --lock-mode governance (whoever has the right to bypass can)',
    })
  if (lockFor === undefined)
    throw new LifeboatError('usage', '--lock-for is missing', { hint: 'write for example --lock-for 30d' })
  const forMs = parseDurationMs(lockFor, '--lock-for')
  const renewEveryMs = renewEvery === undefined ? Math.floor(forMs / 4) : parseDurationMs(renewEvery, '--renew-every')
  const lock = { mode: lockMode, forMs, renewEveryMs } as const
  checkLockPolicy(lock)
  return lock
}

interface Key {
  readonly credential: () => Promise<Credential>
  readonly keyFile?: string
  /** Whether the key file was made by this call. */
  readonly isMade: () => boolean
}

/** A missing key is noticed at once; a key file is made when the place is known to be good. */
function keyOf(invocation: Invocation, { encryption }: Flags): Key {
  const source = invocation.keySource
  const fixed = (credential: () => Promise<Credential>): Key => ({ credential, isMade: () => false })
  if (!encryption) return fixed(async () => ({ kind: 'none' }))
  if (!source)
    throw new LifeboatError('usage', 'an encrypted repository needs a key', {
      hint: 'give --key-file FILE (it is made), or set LIFEBOAT_PASSPHRASE, or say --no-encryption',
    })
  if (source.kind !== 'file') return fixed(() => credentialOf(source, invocation.keySettings))
  const { keyFile } = source
  let isMade = false
  return {
    keyFile,
    isMade: () => isMade,
    async credential() {
      const { secret, made } = await readOrMakeKeyFile(keyFile, invocation.surroundings.random)
      isMade = made
      return { kind: 'file', secret }
    },
  }
}

/** A failed init leaves no key file behind, unless a repository may have been made with it. */
async function withoutKeyFile({ output }: Invocation, store: ObjectStore, key: Key, error: unknown): Promise<never> {
  if (key.keyFile === undefined || !key.isMade()) throw error
  const isOurs = isLifeboatError(error, 'repository-exists') ? false : await mayHoldConfig(store)
  if (isOurs) output.warning(`the key file ${key.keyFile} is kept: what became of the repository is not known`)
  else await rm(key.keyFile, { force: true })
  throw error
}

const mayHoldConfig = (store: ObjectStore): Promise<boolean> =>
  store.head('config').then(
    found => found !== undefined,
    error => !isLifeboatError(error, 'store-not-found'),
  )
