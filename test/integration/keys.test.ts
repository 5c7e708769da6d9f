/** The key commands as a person gives them: files, passphrases, a program in front of a KMS, a token. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import path from 'node:path'
import { test } from 'node:test'
import { seededRandom } from '../../src/core/random.ts'
import { type CommandLine, commandLine } from '../doubles/command-line.ts'

interface Listed {
  readonly keys: readonly {
    readonly id: string
    readonly kind: string
    readonly usable: string
    readonly label?: string
  }[]
}

async function keysOf(cli: CommandLine, words: string): Promise<Listed['keys']> {
  const { code, json, stderr } = await cli.json(`${words} key list`)
  assert.equal(code, 0, stderr)
  return (json as Listed).keys
}

async function succeeds(cli: CommandLine, words: string | readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await cli.run(words)
  assert.equal(code, 0, stderr)
  return stdout + stderr
}

/** A VM `web` with one image of 1 MiB in a repository with the key file `key`. */
async function prepared(environment: Record<string, string> = {}) {
  const cli = commandLine(environment)
  cli.environment.LIFEBOAT_REPO = cli.at('repo')
  const image = seededRandom('disk')(1 << 20)
  await writeFile(cli.at('disk'), image)
  const made = await cli.run(`--key-file ${cli.at('key')} init`)
  assert.equal(made.code, 0, made.stderr)
  return { cli, image, made }
}

test('init says where the key is, what losing it means, and how to add a second; doctor warns until there is one', async () => {
  const { cli, made } = await prepared()
  await using _ = cli
  assert.match(made.stdout, new RegExp(`its key is in ${cli.at('key')}`))
  assert.match(made.stderr, /Without this key nothing can be restored/)
  assert.match(made.stderr, /key add --type passphrase/)
  const check = async () => {
    const { json } = await cli.json(`--key-file ${cli.at('key')} doctor`)
    return (json as { checks: { name: string; status: string }[] }).checks.find(
      ({ name }) => name === 'repository-keys',
    )
  }
  assert.equal((await check())?.status, 'warn')
  cli.environment.LIFEBOAT_NEW_PASSPHRASE = 'correct horse'
  await succeeds(cli, `--key-file ${cli.at('key')} key add --type passphrase`)
  assert.equal((await check())?.status, 'ok')
})

test('keys are added, exchanged and removed; the new one opens, the old one says what to do', async () => {
  const { cli, image } = await prepared()
  await using _ = cli
  const key = `--key-file ${cli.at('key')}`
  await succeeds(cli, `${key} backup web --image vda=${cli.at('disk')}`)
  await succeeds(cli, `${key} key add --new-key-file ${cli.at('second')}`)
  assert.equal((await stat(cli.at('second'))).mode & 0o777, 0o600)
  const rotated = await succeeds(cli, `${key} key rotate --data --new-key-file ${cli.at('third')}`)
  assert.match(rotated, /epoch 1/)
  const old = await cli.json(`${key} points`)
  assert.deepEqual([old.code, old.error.code], [2, 'key-wrong'])
  const keys = await keysOf(cli, `--key-file ${cli.at('second')}`)
  assert.deepEqual(keys.map(({ usable }) => usable).sort(), ['likely', 'this'])
  const third = keys.find(({ usable }) => usable === 'likely')!
  await succeeds(cli, `--key-file ${cli.at('second')} key remove ${third.id.slice(0, 6)}`)
  const last = await cli.json(
    `--key-file ${cli.at('second')} key remove ${keys.find(({ usable }) => usable === 'this')!.id}`,
  )
  assert.deepEqual([last.code, last.error.code], [2, 'last-key'])
  await succeeds(cli, `--key-file ${cli.at('second')} restore web@latest/vda --output ${cli.at('out')}`)
  assert.ok((await readFile(cli.at('out'))).equals(image))
  const log = await succeeds(cli, `--key-file ${cli.at('second')} log`)
  for (const action of ['key-add', 'key-rotate', 'key-remove']) assert.match(log, new RegExp(action))
})

/** A KMS whose key lies in a file beside it. */
const KMS = `#!/usr/bin/env node
const { createCipheriv, createDecipheriv, randomBytes } = require('node:crypto')
const { readFileSync } = require('node:fs')
const key = readFileSync(__dirname + '/kek')
const input = readFileSync(0)
const aad = Buffer.from(process.env.LIFEBOAT_KEY_CONTEXT)
if (process.env.LIFEBOAT_NEW_PASSPHRASE) throw new Error('was told the passphrase')
if (process.argv[2] === 'wrap') {
  const nonce = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(aad)
  process.stdout.write(Buffer.concat([nonce, cipher.update(input), cipher.final(), cipher.getAuthTag()]))
} else {
  const cipher = createDecipheriv('aes-256-gcm', key, input.subarray(0, 12)).setAAD(aad)
  cipher.setAuthTag(input.subarray(-16))
  process.stdout.write(Buffer.concat([cipher.update(input.subarray(12, -16)), cipher.final()]))
}
`

test('a key command is a key like any other; what it says when it fails is told; the store never chooses it', async () => {
  const { cli, image } = await prepared({ LIFEBOAT_NEW_PASSPHRASE: 'secret of another key', PATH: process.env.PATH! })
  await using _ = cli
  await mkdir(cli.at('kms'))
  await writeFile(cli.at('kms/kek'), seededRandom('kek')(32))
  await writeFile(cli.at('kms/kms'), KMS)
  await chmod(cli.at('kms/kms'), 0o755)
  await succeeds(cli, `--key-file ${cli.at('key')} key add --new-key-command ${cli.at('kms/kms')}`)
  const command = `--key-command ${cli.at('kms/kms')}`
  assert.deepEqual((await keysOf(cli, command)).map(({ kind, usable, label }) => [kind, usable, label]).sort(), [
    ['command', 'this', 'kms'],
    ['file', 'likely', undefined],
  ])
  await succeeds(cli, `${command} backup web --image vda=${cli.at('disk')}`)
  cli.environment.LIFEBOAT_KEY_COMMAND = JSON.stringify([cli.at('kms/kms')])
  await succeeds(cli, `restore web@latest/vda --output ${cli.at('out')}`)
  assert.ok((await readFile(cli.at('out'))).equals(image))
  await succeeds(cli, 'key rotate')
  assert.equal((await keysOf(cli, '')).length, 2)

  await writeFile(cli.at('kms/kek'), seededRandom('another kek')(32))
  const failed = await cli.json('points')
  assert.deepEqual([failed.code, failed.error.code], [2, 'key-unavailable'])
  assert.match(failed.error.message!, /ended with 1/)
  // Named on a flag, a key file counts more than the command of the environment.
  await succeeds(cli, `--key-file ${cli.at('key')} points`)

  // Whoever writes to the store writes any slot.
  const folder = cli.at('repo/keys')
  for (const name of await readdir(folder)) {
    const slot = path.join(folder, name)
    if (!(await stat(slot)).isFile()) continue
    const planted = {
      ...JSON.parse(await readFile(slot, 'utf8')),
      command: `touch ${cli.at('owned')}`,
      label: `$(touch ${cli.at('owned')})`,
    }
    await writeFile(slot, JSON.stringify(planted))
  }
  await cli.run('points')
  assert.equal(existsSync(cli.at('owned')), false)
})

test('a VM of its own domain is shredded alone, and only when it is named twice', async () => {
  const { cli, image } = await prepared()
  await using _ = cli
  cli.environment.LIFEBOAT_KEY_FILE = cli.at('key')
  await succeeds(cli, `backup web --image vda=${cli.at('disk')}`)
  await succeeds(cli, `backup tenant --own-domain --image vda=${cli.at('disk')}`)
  assert.equal((await cli.json('key destroy --vm tenant')).error.code, 'usage')
  assert.equal((await cli.json('key destroy --vm tenant --yes-really web')).error.code, 'usage')
  assert.equal((await cli.json('key destroy --vm web --yes-really web')).error.code, 'usage')
  const { code, json, stderr } = await cli.json('key destroy --vm tenant --yes-really tenant')
  assert.equal(code, 0, stderr)
  assert.match(stderr, /tenant@[0-9a-f]{16} of .* becomes unreadable/)
  assert.equal((json as { points: unknown[] }).points.length, 1)
  const { points } = (await cli.json('points --all')).json as { points: { vm: string; state: string }[] }
  assert.deepEqual(
    points.map(({ vm, state }) => `${vm} ${state}`),
    ['tenant shredded', 'web committed'],
  )
  assert.notEqual((await cli.run(`restore tenant@latest/vda --output ${cli.at('none')}`)).code, 0)
  // A collection needs none of the nodes that nobody can read, and gives their space back.
  const packs = async () =>
    (await readdir(cli.at('repo/packs'), { recursive: true })).filter(name => /[0-9a-f]{32}$/.test(name))
  const before = (await packs()).length
  await succeeds(cli, 'gc --grace 0s --lease-expiry 5s')
  assert.equal((await packs()).length, before / 2)
  await succeeds(cli, `restore web@latest/vda --output ${cli.at('out')}`)
  assert.ok((await readFile(cli.at('out'))).equals(image))
})

const MODULE = '/usr/lib/softhsm/libsofthsm2.so'

interface TokenSetup {
  readonly PKCS11: new () => Record<string, (...words: unknown[]) => unknown>
}

/** The package is compiled on installation and may be absent. */
function loadPackage(): TokenSetup | undefined {
  try {
    return createRequire(import.meta.url)('pkcs11js')
  } catch {
    return undefined
  }
}

const library = loadPackage()
const missing = !existsSync(MODULE)
  ? `${MODULE} is not there: apt-get install softhsm2`
  : !library && 'pkcs11js is not installed'

test('a key in a PKCS#11 token opens the repository, and only with its PIN', { skip: missing }, async () => {
  const { cli, image } = await prepared()
  await using _ = cli
  await mkdir(cli.at('tokens'))
  await writeFile(
    cli.at('softhsm.conf'),
    `directories.tokendir = ${cli.at('tokens')}\nobjectstore.backend = file\nlog.level = ERROR\n`,
  )
  const environment = { ...process.env, SOFTHSM2_CONF: cli.at('softhsm.conf') }
  execFileSync('softhsm2-util', ['--init-token', '--free', '--label', 'agent', '--pin', '1234', '--so-pin', '5678'], {
    env: environment,
    stdio: 'ignore',
  })
  // In a process of its own: the module reads its configuration from the environment once.
  const make = `
    const p = require(${JSON.stringify(createRequire(import.meta.url).resolve('pkcs11js'))})
    const l = new p.PKCS11()
    l.load('${MODULE}')
    l.C_Initialize()
    const slot = l.C_GetSlotList(true).find(s => l.C_GetTokenInfo(s).label.trim() === 'agent')
    const session = l.C_OpenSession(slot, p.CKF_SERIAL_SESSION | p.CKF_RW_SESSION)
    l.C_Login(session, p.CKU_USER, '1234')
    const set = Object.entries({ TOKEN: true, LABEL: 'kek', VALUE_LEN: 32, ENCRYPT: true, DECRYPT: true, SENSITIVE: true, EXTRACTABLE: false })
    l.C_GenerateKey(session, { mechanism: p.CKM_AES_KEY_GEN }, set.map(([name, value]) => ({ type: p['CKA_' + name], value })))
    l.C_Finalize()`
  execFileSync(process.execPath, ['-e', make], { env: environment })

  Object.assign(cli.environment, { SOFTHSM2_CONF: cli.at('softhsm.conf'), LIFEBOAT_PKCS11_PIN: '1234' })
  const token = `--pkcs11-module ${MODULE} --pkcs11-token agent`
  await succeeds(cli, `--key-file ${cli.at('key')} ${token} key add --new-pkcs11-key kek`)
  const opening = `${token} --pkcs11-key kek`
  assert.ok((await keysOf(cli, opening)).some(({ kind, usable }) => kind === 'pkcs11' && usable === 'this'))
  await succeeds(cli, `${opening} backup web --image vda=${cli.at('disk')}`)
  await succeeds(cli, `${opening} restore web@latest/vda --output ${cli.at('out')}`)
  assert.ok((await readFile(cli.at('out'))).equals(image))
  await succeeds(cli, `${opening} key rotate`)

  await writeFile(cli.at('pin'), '9999\n')
  delete cli.environment.LIFEBOAT_PKCS11_PIN
  const wrong = await cli.json(`${opening} --pkcs11-pin-file ${cli.at('pin')} points`)
  assert.deepEqual([wrong.code, wrong.error.code], [2, 'key-unavailable'])
  assert.match(wrong.error.message!, /PIN_INCORRECT/)
  assert.ok(!wrong.error.message!.includes('9999'))
  const none = await cli.json(`${token} --pkcs11-key other --pkcs11-pin-file ${cli.at('pin')} points`)
  assert.equal(none.error.code, 'key-unavailable')
  // The PIN is nobody's but this host's.
  for (const name of await readdir(cli.at('repo'), { recursive: true })) {
    const file = path.join(cli.at('repo'), name)
    if ((await stat(file)).isFile()) assert.equal((await readFile(file, 'latin1')).includes('"1234"'), false, name)
  }
})
