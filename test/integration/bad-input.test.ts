/** Bad words, wrong keys, absent places: each is refused with what to do and the right exit code, and leaves everything as it was. */
import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { LifeboatError } from '../../src/core/errors.ts'
import { type PointId, pointId } from '../../src/core/ids.ts'
import {
  done,
  noise,
  type Refusal,
  refused,
  refusedWithoutTrace,
  type SmallRepository,
  smallRepository,
} from '../doubles/bad-input.ts'
import { smallDisk } from '../doubles/command-line.ts'
import { startS3Fake } from '../doubles/s3-fake.ts'

const usage = { exit: 2, code: 'usage' } as const

describe('bad input', { timeout: 120_000 }, () => {
  let small: SmallRepository
  before(async () => {
    small = await smallRepository()
    small.cli.environment.AWS_ACCESS_KEY_ID = 'somebody'
    small.cli.environment.AWS_SECRET_ACCESS_KEY = 'something'
    await writeFile(small.cli.at('new.raw'), noise(2 << 20))
  })
  after(() => small[Symbol.asyncDispose]())

  const at = (...parts: string[]) => small.cli.at(...parts)
  const untouched = (words: string | readonly string[], refusal: Refusal, dir = small.cli.dir) =>
    refusedWithoutTrace(dir, () => small.cli.json(words), refusal)
  const ours = (words: string) => `${small.at} ${words}`

  test('not a repository: an empty folder, no folder, a file, a URL of no store', async () => {
    await mkdir(at('empty'))
    await writeFile(at('file'), 'x')
    for (const name of ['empty', 'nowhere', 'file'])
      await untouched(`--repo ${at(name)} --key-file ${at('key')} points`, { exit: 2, code: 'not-a-repository' })
    for (const url of ['ftp://host/x', 's3://x', 's3://bucket?endpoint=nonsense', 's3://u:p@bucket/x', 'file://host/x'])
      await untouched(`--repo ${url} points`, usage)
    await untouched('points', { ...usage, message: /no repository was named/ })
  })

  test('a known repository without its config is damage, not a mistyped name', async () => {
    await rename(path.join(small.repo, 'config'), at('kept'))
    const refusal = { exit: 4, code: 'missing-object', object: 'config' } as const
    for (const words of ['points', 'verify --all', `backup web1 --image vda=${small.image}`])
      await untouched(ours(words), refusal)
    await rename(at('kept'), path.join(small.repo, 'config'))
  })

  test('a newer format is refused by its number', async () => {
    const config = path.join(small.repo, 'config')
    const good = await readFile(config, 'utf8')
    await writeFile(config, good.replace('"format":1', '"format":2'))
    for (const words of ['points', 'restore web1@latest/vda --output x', `backup web1 --image vda=${small.image}`])
      await untouched(ours(words), { exit: 2, code: 'newer-format', message: /format 2/ })
    await writeFile(config, good)
  })

  test('a missing key: none given, no such file, a folder, a device without end, an enormous file', async () => {
    await mkdir(at('folder'))
    await writeFile(at('huge'), '')
    await truncate(at('huge'), 2 ** 36)
    await untouched(`--repo ${small.repo} points`, { exit: 2, code: 'key-missing' })
    for (const file of [at('nokey'), at('folder'), '/dev/zero', at('huge')])
      await untouched(`--repo ${small.repo} --key-file ${file} points`, { exit: 2, code: 'key-missing', object: file })
    await rm(at('huge'))
  })

  test("a wrong key: no key file, another repository's, one for a repository that has none", async () => {
    await writeFile(at('letter'), 'Dear Sir or Madam')
    await untouched(`--repo ${small.repo} --key-file ${at('letter')} points`, { exit: 2, code: 'key-wrong' })
    done(await small.cli.json(`--repo ${at('second')} --key-file ${at('key2')} init`))
    await untouched(`--repo ${small.repo} --key-file ${at('key2')} points`, { exit: 2, code: 'key-wrong' })
    const open = await small.cli.run(`--repo ${at('open')} --quiet init --no-encryption`)
    assert.equal(open.code, 0)
    assert.match(open.stderr, /^warning: THIS REPOSITORY IS NOT ENCRYPTED/)
    await untouched(`--repo ${at('open')} --key-file ${at('key')} points`, { exit: 2, code: 'key-wrong' })
    done(await small.cli.json(`--repo ${at('open')} points`))
  })

  test('a passphrase opens its repository, another does not, none is missing', async () => {
    const { environment } = small.cli
    environment.LIFEBOAT_PASSPHRASE = 'correct horse'
    done(await small.cli.json(`--repo ${at('spoken')} init`))
    done(await small.cli.json(`--repo ${at('spoken')} points`))
    environment.LIFEBOAT_PASSPHRASE = 'correct house'
    await untouched(`--repo ${at('spoken')} points`, { exit: 2, code: 'key-wrong' })
    delete environment.LIFEBOAT_PASSPHRASE
    await untouched(`--repo ${at('spoken')} points`, { exit: 2, code: 'key-missing' })
  })

  test('init refuses a place that is not empty, and what makes no repository leaves no key file', async () => {
    await mkdir(at('full'))
    await writeFile(at('full', 'file'), 'x')
    const init = (repo: string, words = '') => `--repo ${repo} --key-file ${at('fresh')} init ${words}`
    await untouched(init(at('full')), { exit: 2, code: 'repository-exists' })
    await untouched(init(small.repo), { exit: 2, code: 'repository-exists', object: 'config' })
    for (const size of ['5000', '0', '2KiB', '8MiB', 'big'])
      await untouched(init(at('new'), `--chunk-size ${size}`), usage)
    await untouched(init('s3://bucket/x?endpoint=http://127.0.0.1:1').replace('init', '--retry-for 0s init'), {
      exit: 1,
      code: 'store-unreachable',
    })
    await using fake = await startS3Fake({
      faults: [
        { operation: 'PutObject', key: /\/keys\//, fault: { kind: 'error', status: 507, code: 'InsufficientStorage' } },
      ],
    })
    small.cli.environment.AWS_ACCESS_KEY_ID = fake.credentials.accessKeyId
    small.cli.environment.AWS_SECRET_ACCESS_KEY = fake.credentials.secretAccessKey
    await untouched(init(`s3://test/x?endpoint=${fake.endpoint}`), { exit: 1, code: 'store-full' })
    await untouched(`--repo ${at('new')} init`, { ...usage, message: /needs a key/ })
    await untouched(`--repo ${at('new')} --key-file ${at('no', 'folder', 'key')} init`, usage)
  })

  test('store unreachable: a closed port, a name of no host', async () => {
    for (const endpoint of ['http://127.0.0.1:1', 'http://no-such-host.invalid'])
      await untouched(`--repo s3://bucket/x?endpoint=${endpoint} --key-file ${at('key')} --retry-for 0s points`, {
        exit: 1,
        code: 'store-unreachable',
      })
  })

  /** Resolves when a backup that runs has its lease. */
  async function begun(): Promise<void> {
    while ((await readdir(path.join(small.repo, 'leases')).catch(() => [])).length === 0)
      await new Promise(resolve => setTimeout(resolve, 10))
  }

  test('store unreachable: a folder that vanishes in mid backup, which is not made anew', async () => {
    const gone = () => rename(small.repo, at('away'))
    const running = small.cli.json(ours(`--retry-for 0s backup fresh --image vda=${at('new.raw')} --limit-rate 1MiB`))
    await begun().then(gone)
    refused(await running, { exit: 1, code: 'store-unreachable' })
    await assert.rejects(readFile(path.join(small.repo, 'config')), { code: 'ENOENT' })
    await rename(at('away'), small.repo)
    await small.reset()
  })

  test('bucket missing, and credentials that the store does not know', async () => {
    await using fake = await startS3Fake()
    const { environment } = small.cli
    environment.AWS_ACCESS_KEY_ID = fake.credentials.accessKeyId
    environment.AWS_SECRET_ACCESS_KEY = fake.credentials.secretAccessKey
    const words = (bucket: string, verb: string) =>
      `--repo s3://${bucket}/x?endpoint=${fake.endpoint} --key-file ${at('fresh')} ${verb}`
    await untouched(words('absent', 'init'), { exit: 2, code: 'store-bucket-missing' })
    await untouched(words('absent', 'points').replace('fresh', 'key'), { exit: 2, code: 'store-bucket-missing' })
    await untouched(words('test', 'points').replace('fresh', 'key'), { exit: 2, code: 'not-a-repository' })
    environment.AWS_SECRET_ACCESS_KEY = 'stolen'
    await untouched(words('test', 'init'), { exit: 1, code: 'store-denied' })
  })

  test('no such VM, point or disk, and letters that fit two points', async () => {
    await untouched(ours('show web2@latest'), { exit: 2, code: 'no-such-vm' })
    await untouched(ours('points web2'), { exit: 2, code: 'no-such-vm' })
    for (const point of ['web1@latest~2', 'web1@2001-01-01', 'web1@0000000000000000'])
      await untouched(ours(`show ${point}`), { exit: 2, code: 'no-such-point' })
    const verbs = [`restore web1@latest/vdz --output ${at('x')}`, `export web1@latest/vdz --socket ${at('s')}`]
    for (const words of verbs) await untouched(ours(words), { exit: 2, code: 'no-such-disk' })
    const twin = `${small.points[0].slice(0, 15)}${small.points[0].endsWith('0') ? '1' : '0'}`
    const file = path.join(small.repo, 'points', 'web1', `20260101T000000Z-${twin}`)
    await writeFile(file, '')
    await untouched(ours(`show web1@${twin.slice(0, 15)}`), { exit: 2, code: 'ambiguous', message: /2 points/ })
    await rm(file)
  })

  test('words that do not fit are told with what to do, for every command, also with --json', async () => {
    const listen = `--socket ${at('s')}`
    const wrong = [
      'explode',
      'points --explode',
      'points a b',
      'init x',
      'backup',
      'backup web1',
      'backup web1 --image',
      'backup web1 --image vda',
      'backup web1 --image vda=',
      `backup web1 --image vda=${small.image},format=vmdk`,
      `backup web1 --image vda=${small.image},colour=red`,
      `backup web1 --image vda=${small.image} --image vda=${small.image}`,
      `backup web1 --image vda=${at('nothing')}`,
      `backup web1 --image vda=${small.cli.dir}`,
      `backup web1 --image vda=${small.image} --qmp x`,
      `backup web1 --image vda=${small.image} --full --differential latest`,
      `backup web1 --image vda=${small.image} --differential other@latest`,
      `backup web1 --image vda=${small.image} --fleecing-dir ${small.image}`,
      ...['0', 'fast', '-5', '0.1'].map(rate => `backup web1 --image vda=${small.image} --limit-rate ${rate}`),
      ...['1s', 'x'].map(time => `--lease-expiry ${time} backup web1 --image vda=${small.image}`),
      '--retry-for long points',
      `backup ${'x'.repeat(300)} --image vda=${small.image}`,
      `backup web1 --image ${'x'.repeat(300)}=${small.image}`,
      'show',
      'show web1',
      'show web1@zzz',
      'show web1@2026-13-01',
      'diff web1@latest',
      'diff web1@latest other@latest',
      'restore web1@latest/vda',
      'restore web1@latest/vda --output x --format vmdk',
      'export',
      'export web1@latest',
      `export ${listen}`,
      `export web1@latest --file x ${listen}`,
      `export web1@latest --writable ${listen}`,
      `export web1@latest ${listen} --listen 127.0.0.1:0`,
      `export web1@latest ${listen} --cache-size lots`,
      `export web1@latest --socket ${at('s'.repeat(120))}`,
      'export web1@latest --listen 127.0.0.1:0',
      'export web1@latest --listen 127.0.0.1:99999 --insecure',
      'export web1@latest --listen nonsense --insecure',
      `export --file ${at('nothing')} ${listen}`,
      `export --file ${small.cli.dir} ${listen}`,
      'boot',
      'boot web1@latest/vda',
      'boot web1@latest --memory lots',
      'boot web1@latest --cpus 0',
      'boot web1@latest --accel warp',
      'boot web1@latest --net moon',
      'boot web1@latest --session ../x',
      'session',
      'session show',
      'session explode x',
      'session discard ../../etc',
      'verify',
      'verify --all web1@latest',
      ...['101', '-1', 'x', 'NaN'].map(percent => `verify --all --sample ${percent}`),
      'doctor x',
    ]
    for (const words of wrong) {
      const answer = await small.cli.json(ours(words))
      assert.ok(answer.error.code === 'usage', `${words}: ${answer.stdout}${answer.stderr}`)
      refused(answer, usage)
    }
    assert.match((await small.cli.run('')).stderr, /Commands:[\s\S]*what to do/)
    refused(await small.cli.json([...small.at.split(' '), 'verify', '--all', '--sample', '']), usage)
    refused(await small.cli.json([...small.at.split(' '), 'restore', 'web1@latest/vda', '--output', '']), usage)
    refused(await small.cli.json([...small.at.split(' '), 'backup', '', '--image', `vda=${small.image}`]), usage)
    refused(await small.cli.json(ours('session show nothing')), { exit: 2, code: 'no-such-session' })
  })

  test('a failed backup leaves no lease, fence or pin', async () => {
    for (const words of [
      `backup web1 --image vda=${at('nothing')}`,
      `backup web1 --image vda=${small.image} --disk vdz`,
      `backup web1 --image vda=${small.image},format=qcow2`,
      `backup web1 --qmp ${at('nothing')}`,
      `backup web1 --qmp ${small.image}`,
    ])
      await refusedWithoutTrace(small.repo, () => small.cli.json(ours(words)), {
        exit: 2,
        code: words.includes('--qmp') ? 'qmp-unreachable' : words.includes('nothing') ? 'usage' : 'no-such-disk',
      })
  })

  test('a configuration file that is none', async () => {
    const file = at('lifeboat.yaml')
    for (const text of ['repo: [1, 2]', 'repo: 5', 'colour: red', '{{{', '- repo', 'just words', 'x'.repeat(100_000)]) {
      await writeFile(file, text)
      await untouched(`--config ${file} points`, { ...usage, message: /lifeboat\.yaml/ })
    }
    for (const place of ['/dev/zero', small.cli.dir, at('nothing')]) await untouched(`--config ${place} points`, usage)
    await writeFile(file, `repo: ${small.repo}\nkey-file: ${at('key')}\n`)
    done(await small.cli.json(`--config ${file} points`))
  })

  test('a folder for state that is none, cannot be written or is damaged', async () => {
    const { environment } = small.cli
    await writeFile(at('occupied'), 'x')
    environment.LIFEBOAT_STATE_DIR = at('occupied')
    await untouched(ours('points'), usage)
    await untouched(ours('session list'), { exit: 1, code: 'file-failed' })
    environment.LIFEBOAT_STATE_DIR = at('state')
    const [known = ''] = await Array.fromAsync(
      (await import('node:fs/promises')).glob(at('state', 'repositories', '*')),
    )
    const good = await readFile(known)
    await writeFile(known, '{')
    await untouched(ours('points'), { ...usage, message: /damaged/ })
    await writeFile(known, good.toString().replace(/"keyCheck":"../, '"keyCheck":"zz'))
    await untouched(ours('points'), { exit: 4, code: 'corrupt-object', object: 'config' })
    await writeFile(known, good)
  })

  test('output exists: refused; a folder where a file belongs, and the reverse', async () => {
    await writeFile(at('there.raw'), 'mine')
    await mkdir(at('there'))
    await writeFile(at('there', 'vda.raw'), 'mine')
    const restore = (point: string, output: string, more = '') => ours(`restore ${point} --output ${output} ${more}`)
    await untouched(restore('web1@latest/vda', at('there.raw')), { exit: 2, code: 'output-exists' })
    await untouched(restore('web1@latest/vda', at('there.raw'), '--format qcow2'), { exit: 2, code: 'output-exists' })
    await untouched(restore('web1@latest', at('there')), { exit: 2, code: 'output-exists' })
    for (const more of ['', '--force', '--onto']) {
      await untouched(restore('web1@latest/vda', at('there'), more), { ...usage, message: /is a folder/ })
      await untouched(restore('web1@latest', at('there.raw'), more), { ...usage, message: /is not a folder/ })
    }
    await untouched(restore('web1@latest/vda', '/dev/null', '--force'), usage)
    await untouched(restore('web1@latest/vda', at('no', 'folder', 'x')), { exit: 1, code: 'output-failed' })
    await untouched(ours(`export web1@latest --socket ${at('there.raw')}`), { exit: 2, code: 'output-exists' })
    await symlink(at('there.raw'), at('link.raw'))
    await untouched(restore('web1@latest/vda', at('link.raw')), { exit: 2, code: 'output-exists' })
  })

  test('disk full: at an output, at the state, at the repository, whose points can still be restored', async t => {
    await mkdir(at('tight'))
    await using disk = smallDisk(at('tight'), 640 * 1024)
    if (!disk) return t.skip('mounting a tmpfs takes root')
    const tight = (words: string, refusal: Refusal) => untouched(ours(words), refusal, at('tight'))
    const noRoom = { exit: 1, code: 'disk-full' } as const
    await tight(`restore web1@latest/vda --output ${at('tight', 'x.raw')}`, noRoom)
    await tight(`restore web1@latest/vda --output ${at('tight', 'x.qcow2')} --format qcow2`, noRoom)
    await tight(`restore web1@latest --output ${at('tight', 'folder')}`, noRoom)

    const there = `--repo ${at('tight', 'repo')} --key-file ${at('key')}`
    done(await small.cli.json(`${there} init`))
    await writeFile(at('little.raw'), noise(65_536))
    done(await small.cli.json(`${there} backup web1 --image vda=${at('little.raw')}`))
    refused(await small.cli.json(`${there} backup web1 --full --image vda=${small.image}`), {
      exit: 1,
      code: 'store-full',
    })
    await assert.rejects(async () => {
      for (let n = 0; n < 1000; n++) await writeFile(at('tight', `fill-${n}`), Buffer.alloc(4096))
    }, /ENOSPC/)
    await tight(`${there.replace(small.at, '')} backup web1 --image vda=${at('little.raw')}`, {
      exit: 1,
      code: 'store-full',
    })
    const restored = await small.cli.json(`${there} restore web1@latest/vda --output ${at('rescued.raw')}`)
    done(restored)
    assert.match(restored.stderr, /warning: this host cannot write to the repository/)
    assert.ok((await readFile(at('rescued.raw'))).equals(await readFile(at('little.raw'))))
    const { environment } = small.cli
    environment.LIFEBOAT_STATE_DIR = at('tight', 'state')
    done(await small.cli.json(ours('points')))
    assert.deepEqual(await readdir(at('tight', 'state', 'repositories')), [])
    refused(await small.cli.json(ours(`backup web1 --image vda=${small.image}`)), noRoom)
    environment.LIFEBOAT_STATE_DIR = at('state')
  })

  test('Ctrl-C in mid backup, restore, verify and export: 130 (a server that was told to stop: 0), and nothing stays', async () => {
    const whenStopped = async (words: string, ms: number) => {
      const stop = new AbortController()
      const running = small.cli.json(ours(words), { signal: stop.signal })
      await new Promise(resolve => setTimeout(resolve, ms))
      stop.abort(new LifeboatError('interrupted', 'stopped by SIGINT'))
      return await running
    }
    const before = await restorable()
    const slowly = [
      `backup fresh --image vda=${at('new.raw')} --limit-rate 300KiB`,
      `restore web1@latest/vda --output ${at('i.raw')}`,
      `restore web1@latest/vda --output ${at('i.qcow2')} --format qcow2`,
      'verify --all',
    ]
    for (const words of slowly) {
      const answer = await whenStopped(words, words.includes('backup') ? 600 : 2)
      assert.equal(answer.code, 130, `${words}: ${answer.stdout}`)
      assert.deepEqual(answer.error, { code: 'interrupted', message: 'stopped by SIGINT' })
    }
    const served = await whenStopped(`export web1@latest --socket ${at('i.sock')}`, 500)
    assert.equal(served.code, 0, served.stderr)
    assert.deepEqual(await restorable(), before)
    for (const name of ['i.raw', 'i.qcow2', 'i.sock']) await assert.rejects(readFile(at(name)), { code: 'ENOENT' })
  })

  /** Names of all objects that count: what a stopped backup has sent already is garbage that nobody sees. */
  async function restorable(): Promise<string[]> {
    const names = await Array.fromAsync((await import('node:fs/promises')).glob('*/**', { cwd: small.repo }))
    return names.filter(name => /^(points|leases|pins|fences|forgotten)\/.*\d/.test(name)).sort()
  }

  test('two backups of one VM at once: the second stops and says who is at it', async () => {
    const first = small.cli.json(ours(`backup twice --image vda=${at('new.raw')} --limit-rate 2MiB`))
    await begun()
    const second = await small.cli.json(ours(`backup twice --image vda=${small.image}`))
    refused(second, { exit: 1, code: 'vm-busy', message: new RegExp(`${process.pid}`) })
    done(await first)
  })

  test('--limit-rate bounds the bytes a second', async () => {
    await writeFile(at('rated.raw'), noise(1 << 20))
    const startedMs = performance.now()
    done(await small.cli.json(ours(`backup rated --image vda=${at('rated.raw')} --limit-rate 768KiB`)))
    // 1 MiB at 768 KiB a second; the last object is paid for by whoever comes after it. Never faster, however slow the host.
    assert.ok(performance.now() - startedMs > 500)
  })

  test('names with slashes, spaces and other letters, disks of no bytes and of odd ones', async () => {
    for (const vm of ['a/b', '..', 'web@1', 'Käse 2', 'x'.repeat(255), '日本']) {
      const words = (...more: string[]) => small.cli.json([...small.at.split(' '), ...more])
      done(await words('backup', vm, '--image', `a/b=${small.image}`))
      done(await words('show', `${vm}@latest/a/b`))
    }
    done(await small.cli.json(ours(`restore a/b@latest --output ${at('slashed')}`)))
    assert.deepEqual(await readFile(at('slashed', 'a_b.raw')), small.contents[1])
    done(await small.cli.json(ours(`backup clash --image a/b=${small.image} --image a_b=${at('other.raw')}`)))
    await untouched(ours(`restore clash@latest --output ${at('clash')} --force`), {
      ...usage,
      message: /would both become/,
    })
    for (const size of [0, 1, 4097]) {
      await writeFile(at('odd.raw'), noise(size))
      done(await small.cli.json(ours(`backup odd${size} --image vda=${at('odd.raw')}`)))
      done(await small.cli.json(ours(`restore odd${size}@latest/vda --output ${at(`odd${size}`)}`)))
      assert.deepEqual(await readFile(at(`odd${size}`)), await readFile(at('odd.raw')))
      done(await small.cli.json(ours(`verify odd${size}@latest`)))
    }
  })

  test('points shows who holds a point and why', async () => {
    await using repository = await small.open()
    const point: PointId = pointId(small.points[0])
    const hold = {
      counter: 1,
      point,
      manifest: 'x',
      kind: 'restore',
      host: 'h',
      expiryMs: null,
      created: '2026-11-21T10:00:00.000Z',
    }
    await repository.reading.control.put('hold', 'holds/00000000000000aa', { ...hold, who: 'legal', reason: 'case 7' })
    const { json } = done(await small.cli.json(ours('points web1')))
    assert.ok(typeof json === 'object' && json !== null && 'points' in json && Array.isArray(json.points))
    assert.deepEqual(
      json.points.map(({ id, holds }) => ({ id, holds })),
      [
        { id: small.points[0], holds: [{ id: '00000000000000aa', who: 'legal', reason: 'case 7' }] },
        { id: small.points[1], holds: [] },
      ],
    )
    await writeFile(path.join(small.repo, 'holds', '00000000000000ab'), 'rotten')
    const answer = await small.cli.json(ours('points web1'))
    assert.equal(answer.code, 4)
    assert.match(answer.stderr, /holds\/00000000000000ab does not authenticate/)
    await rm(path.join(small.repo, 'holds'), { recursive: true })
  })
})
