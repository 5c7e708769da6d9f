import type { Command } from 'commander'
import { LifeboatError } from '../core/errors.ts'
import { type SlotId, slotId } from '../core/ids.ts'
import type { Credential } from '../crypto/keys.ts'
import { applyDestroy, planDestroy } from '../maintenance/destroy-keys.ts'
import { startEpochs } from '../maintenance/epochs.ts'
import { addKey, type KeyContext, listKeys, removeKey, rotateKey } from '../maintenance/keys.ts'
import { maintenanceContext } from '../maintenance/maintenance.ts'
import type { OpenedRepository } from '../repository/open.ts'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'
import { type NewKeyFlags, newCredential } from './new-credential.ts'
import { phasedBar } from './phased-bar.ts'
import { verb } from './verb.ts'

interface Flags extends NewKeyFlags {
  readonly data?: boolean
  readonly vm?: string
  readonly yesReally?: string
}

export const keyCommand = verb<Flags>({
  syntax: 'key <action> [id]',
  description:
    'list: the keys that open the repository. add: another one. remove ID: one that is not to open it any more. rotate: a new one instead of the one given; --data: new keys for what is stored from now on. destroy --vm VM: makes all points of a VM with keys of its own unreadable, for ever.',
  examples: [
    '--repo /srv/backup --key-file /etc/lifeboat/key key list',
    '--repo /srv/backup --key-file /etc/lifeboat/key key add --type passphrase',
    '--repo /srv/backup --key-file /etc/lifeboat/key key rotate --new-key-file /etc/lifeboat/key2',
    '--repo /srv/backup --key-file /etc/lifeboat/key key destroy --vm web1 --yes-really web1',
  ],
  options: (command: Command) =>
    command
      .option(
        '--type <type>',
        'of the new key: file, passphrase (LIFEBOAT_NEW_PASSPHRASE or asked for), command, pkcs11',
      )
      .option('--new-key-file <file>', 'the new key file; it is made if it is not there')
      .option('--new-key-command <command>', 'the new key command; --key-command if absent')
      .option('--new-pkcs11-key <label>', "the new key's label in the token; --pkcs11-key if absent")
      .option('--data', 'of rotate: a new epoch of data keys')
      .option('--vm <vm>', 'of destroy: the VM')
      .option('--yes-really <vm>', 'of destroy: the VM again'),
  async run(invocation, [action = '', id], flags) {
    if (action === 'list') return await list(invocation)
    if (action === 'add') return await add(invocation, flags)
    if (action === 'remove') return await remove(invocation, id)
    if (action === 'rotate') return await rotate(invocation, flags)
    if (action === 'destroy') return await destroy(invocation, flags)
    throw new LifeboatError('usage', `key ${action} is not known`, {
      hint: 'list, add, remove, rotate and destroy are',
    })
  },
})

async function list(invocation: Invocation): Promise<undefined> {
  const { output, signal } = invocation
  await using opened = await invocation.openRepository()
  const { repository, store } = opened
  const keys = await listKeys({ store, keyring: repository.reading.keyring, slot: repository.slot }, { signal })
  output.result({ keys }, () => {
    if (keys.length === 0) return output.line('the repository is not encrypted: it needs no key')
    output.table(
      [{ title: 'KEY' }, { title: 'KIND' }, { title: 'CREATED' }, { title: 'LABEL' }, { title: 'USABLE' }],
      keys.map(({ id, kind, created, label, usable }) => [
        id,
        kind,
        created?.toISOString().replace(/\.\d+Z$/, 'Z') ?? '',
        label ?? '',
        { this: 'yes, it was given now', likely: 'by who has it', unknown: 'not known' }[usable],
      ]),
    )
    return undefined
  })
  for (const { id } of keys.filter(({ usable }) => usable === 'unknown'))
    output.warning(`nothing vouches for key ${id}: it may be damaged, or planted. It does not count as a second key`)
  return undefined
}

async function add(invocation: Invocation, flags: Flags): Promise<undefined> {
  const { output, signal } = invocation
  const { context, opened } = await keyContext(invocation)
  await using _ = opened
  const { credential, keyFile } = await newCredential(invocation, context.credential, flags)
  const id = await addKey(context, credential, { signal })
  output.result({ id, kind: credential.kind, keyFile }, () =>
    output.line(`key ${id} (${credential.kind}) opens the repository${keyFile ? `; it is in ${keyFile}` : ''}`),
  )
  return undefined
}

async function remove(invocation: Invocation, text: string | undefined): Promise<undefined> {
  const { output, signal } = invocation
  const { context, opened } = await keyContext(invocation)
  await using _ = opened
  const id = await slotNamed(context, text, signal)
  await removeKey(context, id, { signal })
  output.result({ id }, () => output.line(`key ${id} opens the repository no more`))
  if (id === context.slot)
    output.warning(
      'the key that was given now is gone; none of those that are left was tried. Try one: lifeboat key list',
    )
  tellOfCopies(invocation)
  return undefined
}

async function rotate(invocation: Invocation, flags: Flags): Promise<number> {
  const { output, signal } = invocation
  const { context, opened } = await keyContext(invocation, { needsKey: flags.data !== true })
  await using _ = opened
  const wantsKey = !flags.data || [flags.type, flags.newKeyFile, flags.newKeyCommand, flags.newPkcs11Key].some(Boolean)
  using bar = phasedBar(output)
  const { started, skipped } = flags.data
    ? await startEpochs(context, { progress: bar.update, signal })
    : { started: [], skipped: [] }
  bar.stop()
  let exchanged: { readonly id: SlotId; readonly removed: SlotId; readonly keyFile?: string } | undefined
  if (wantsKey) {
    const { credential, keyFile } = await newCredential(invocation, context.credential, flags)
    const id = await rotateKey(context, credential, { signal })
    exchanged = { id, removed: context.slot, ...(keyFile ? { keyFile } : {}) }
  }
  output.result({ ...exchanged, ...(flags.data ? { epochs: started, skipped } : {}) }, () => {
    for (const { domain, epoch } of started) output.line(`domain ${domain}: backups from now on use epoch ${epoch}`)
    if (exchanged) output.line(`key ${exchanged.id} opens the repository, key ${exchanged.removed} no more`)
    if (exchanged?.keyFile) output.line(`the new key is in ${exchanged.keyFile}`)
  })
  for (const { domain, reason } of skipped) output.warning(`domain ${domain} was left as it is: ${reason}`)
  if (exchanged) tellOfCopies(invocation)
  return skipped.length > 0 ? exitCode.partly : exitCode.done
}

async function destroy(invocation: Invocation, { vm, yesReally }: Flags): Promise<undefined> {
  const { output, signal, who } = invocation
  if (vm === undefined || vm !== yesReally)
    throw new LifeboatError('usage', 'key destroy needs the name of the VM twice', {
      hint: 'all its points become unreadable for ever: lifeboat key destroy --vm VM --yes-really VM',
    })
  await using opened = await invocation.openRepository()
  const { repository } = opened
  const context = { ...maintenanceContext(repository, who), defaultDomain: repository.domain }
  const plan = await planDestroy(context, vm, { signal })
  for (const { id, takenAt } of plan.points)
    output.message(`${vm}@${id} of ${takenAt.toISOString()} becomes unreadable`)
  await applyDestroy(context, plan, { signal })
  const points = plan.points.map(({ id, takenAt }) => ({ id, takenAt }))
  output.result({ vm, points, domains: plan.domains, objects: plan.objects }, () => {
    output.line(`the keys of ${vm} are destroyed: ${points.length} points can never be read again`)
    output.line('what they took goes with the next `lifeboat gc`')
  })
  return undefined
}

/** What an exchange of keys can and cannot do, where it is done. */
const tellOfCopies = ({ output }: Invocation): void =>
  output.message(
    'Who has used the old key may have kept what it opened: if it was stolen, make a new repository as well.',
  )

async function keyContext(invocation: Invocation, { needsKey = true } = {}) {
  const opened = await invocation.openRepository()
  const { repository } = opened
  const credential = await invocation.credential()
  const { slot } = repository
  if (needsKey && (!credential || slot === undefined)) {
    await opened[Symbol.asyncDispose]()
    throw new LifeboatError('usage', 'the repository is not encrypted: it has no keys', {
      hint: 'only a new repository can be an encrypted one: lifeboat init',
    })
  }
  const context = { ...maintenanceContext(repository, invocation.who), ...opener(repository, credential) }
  return { context, opened }
}

const opener = (
  { slot }: OpenedRepository,
  credential: Credential | undefined,
): Pick<KeyContext, 'slot' | 'credential'> => ({
  slot: slot ?? slotId('0'.repeat(16)),
  credential: credential ?? { kind: 'none' },
})

/** An id, or its first letters. */
async function slotNamed(context: KeyContext, text: string | undefined, signal: AbortSignal): Promise<SlotId> {
  const keys = await listKeys(context, { signal })
  const found = text === undefined || text === '' ? [] : keys.filter(({ id }) => id.startsWith(text))
  if (found[0] && found.length === 1) return found[0].id
  throw new LifeboatError(
    'usage',
    text === undefined ? 'key remove needs the id of a key' : `${found.length} keys are named ${text}`,
    {
      hint: '`lifeboat key list` shows them',
    },
  )
}
