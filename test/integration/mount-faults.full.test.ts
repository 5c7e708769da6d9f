/** `lifeboat mount` where things go wrong, and with more points than a day has: over an S3 store that goes away, with and without a cache on disk. */
import assert from 'node:assert/strict'
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { systemRandom } from '../../src/core/random.ts'
import { parseKeyFile } from '../../src/crypto/key-file.ts'
import { loadPipeline } from '../../src/native/native.ts'
import { openRepository } from '../../src/repository/open.ts'
import { openStore } from '../../src/storage/store-url.ts'
import { commandLine, smallDisk } from '../doubles/command-line.ts'
import { exportedPoint } from '../doubles/exported-point.ts'
import { manyPoints } from '../doubles/many-points.ts'
import { inShell, isMounted, mountProcess, noMounts } from '../doubles/mount-process.ts'
import { lacking } from '../doubles/peer-tools.ts'

const tools = noMounts() || lacking('fusermount3', 'setpriv')
const MiB = 2 ** 20
const DISK = '$M/by-vm/vm/latest/disks/vda.raw'

test('a store that goes away in mid read: EIO after --retry-for, known points stay listed, and all works when it is back', {
  skip: tools,
}, async () => {
  await using point = await exportedPoint(32 * MiB)
  const { t, proxy } = point
  await using mount = await mountProcess(t, '--quiet --retry-for 2s')
  await mount.look(`cmp -n ${8 * MiB} ${DISK} '${t.at('vda.raw')}'`)
  proxy.refuse(true)
  const from = performance.now()
  const failed = await mount.look(
    `dd if=${DISK} of=/dev/null bs=1M skip=20 2>&1; ls $M/by-vm/vm; ls $M/by-vm/nobody 2>&1; true`,
    { ms: 60_000 },
  )
  const seconds = (performance.now() - from) / 1000
  process.stdout.write(`${failed}${proxy.fired.length} connections were refused; ${seconds.toFixed(1)} s\n`)
  assert.match(failed, /error reading .*: Input\/output error/)
  assert.match(failed, /latest/, 'what is known is listed')
  assert.ok(proxy.fired.length > 0)
  // Ten seconds later a listing is due, and fails.
  await new Promise(resolve => setTimeout(resolve, 11_000))
  const away = await mount.look(`ls $M/by-vm/vm; ls $M/by-vm/nobody 2>&1; true`)
  assert.match(away, /latest/)
  assert.match(away, /Input\/output error/, 'nobody knows whether that VM is there')
  proxy.refuse(false)
  await mount.look(`cmp ${DISK} '${t.at('vda.raw')}'`)
  await new Promise(resolve => setTimeout(resolve, 11_000))
  await mount.look(`ls $M/by-vm/nobody 2>&1 | grep -q 'No such file'`)
  assert.equal(await mount.stop(), 0)
  assert.match(mount.said.stderr, /cannot be listed, what was known[\s\S]*can be listed again/)
})

test('SIGTERM while the store hangs and somebody waits for it: nobody hangs, nothing is left behind', {
  skip: tools,
}, async () => {
  await using point = await exportedPoint(8 * MiB)
  const { t, proxy } = point
  await using mount = await mountProcess(t, '--quiet --retry-for 10m')
  await mount.look(`ls -l $M/by-vm/vm/latest/disks`)
  proxy.refuse(true)
  const readers = Array.from({ length: 8 }, (_, n) =>
    inShell(`dd if='${mount.dir}'/by-vm/vm/latest/disks/vda.raw of=/dev/null bs=4k count=1 skip=${n * 200}`),
  )
  while (proxy.fired.length < 8) await new Promise(resolve => setTimeout(resolve, 20))
  const killed = inShell(`timeout -s KILL 2 cat '${mount.dir}'/by-vm/vm/latest/disks/vda.raw > /dev/null`)
  assert.notEqual((await killed).code, 0, 'a program that waits can be killed')
  assert.equal(await mount.stop(), 0, mount.said.stderr)
  for (const { code } of await Promise.all(readers)) assert.notEqual(code, 0)
  assert.equal(await isMounted(mount.dir), false)
})

test('new points appear and become the latest, forgotten ones vanish, within 20 s and without remounting', {
  skip: tools,
}, async () => {
  await using point = await exportedPoint(4 * MiB)
  const { t } = point
  await using mount = await mountProcess(t)
  const listed = async () => (await mount.look(`ls $M/by-vm/vm; readlink $M/by-vm/vm/latest`)).trim().split('\n')
  const [first = ''] = await listed()
  await writeFile(t.at('vda.raw'), Buffer.alloc(4 * MiB, 7))
  await new Promise(resolve => setTimeout(resolve, 1_100))
  assert.equal((await t.json(`backup vm --image vda=${t.at('vda.raw')}`)).code, 0)
  const appeared = await waitFor(async () => {
    const [, second, , newest] = await listed()
    return second !== 'latest' && newest === second
  })
  await mount.look(`cmp ${DISK} '${t.at('vda.raw')}'`)
  const read = await t.json('forget vm@latest')
  assert.match(read.stderr, /pinned by mount/, 'what is read here is not forgotten')
  const forgotten = await t.json(`forget vm@${first}`)
  assert.equal(forgotten.code, 0, forgotten.stderr)
  const vanished = await waitFor(async () => (await listed()).length === 3)
  process.stdout.write(
    `a new point appeared after ${appeared.toFixed(1)} s, a forgotten one vanished after ${vanished.toFixed(1)} s\n`,
  )
})

async function waitFor(condition: () => Promise<boolean>): Promise<number> {
  const from = performance.now()
  while (!(await condition())) {
    assert.ok(performance.now() - from < 100_000, 'it never happens')
    await new Promise(resolve => setTimeout(resolve, 200))
  }
  return (performance.now() - from) / 1000
}

test('a cache on disk that cannot be made, or is full, is told and fails no read', { skip: tools }, async () => {
  await using point = await exportedPoint(16 * MiB)
  const { t } = point
  await writeFile(t.at('file'), '')
  await mkdir(t.at('full'))
  await using disk = smallDisk(t.at('full'), 6 * MiB)
  for (const [folder, said] of [
    ['file', /no cache on disk/],
    ['full', /./],
  ] as const) {
    t.environment.LIFEBOAT_CACHE_DIR = t.at(folder)
    await using mount = await mountProcess(t)
    await mount.look(`for n in 1 2; do cmp ${DISK} '${t.at('vda.raw')}' || exit 1; done`)
    process.stdout.write(`${folder}: ${mount.said.stderr}`)
    assert.match(folder === 'file' ? mount.said.stderr : `${disk !== undefined}`, said)
    assert.equal(await mount.stop(), 0)
  }
})

test('other users see nothing without --allow-other, and read with it', { skip: tools }, async () => {
  await using point = await exportedPoint(1 * MiB)
  const { t } = point
  await chmod(t.dir, 0o755)
  const other = 'setpriv --reuid 65534 --regid 65534 --clear-groups'
  {
    await using mount = await mountProcess(t)
    await mount.look(`${other} ls $M 2>&1 | grep 'Permission denied'`)
  }
  await using mount = await mountProcess(t, '--quiet --allow-other')
  await mount.look(`${other} cmp ${DISK} '${t.at('vda.raw')}'`)
})

test('ten thousand points: the process stays within 160 MiB above its cache while they are listed and looked into', {
  skip: tools,
}, async () => {
  await using t = commandLine()
  Object.assign(t.environment, { LIFEBOAT_REPO: t.at('repo'), LIFEBOAT_KEY_FILE: t.at('key') })
  await writeFile(t.at('vda.raw'), Buffer.alloc(MiB, 3))
  for (const words of ['init', `backup vm --image vda=${t.at('vda.raw')}`]) assert.equal((await t.json(words)).code, 0)
  {
    await using store = await openStore(t.at('repo'), { environment: {}, random: systemRandom })
    const credential = { kind: 'file', secret: parseKeyFile(await readFile(t.at('key'), 'utf8'), 'key') } as const
    await using repository = await openRepository({
      store,
      credential,
      clock: systemClock,
      random: systemRandom,
      host: 'test',
      pipeline: loadPipeline(),
    })
    const [like] = await repository.points()
    assert.ok(like)
    const timeOf = (n: number) => new Date(Date.UTC(2025, 0, 1) + n * 1_800_000)
    await manyPoints({ repository, store, random: systemRandom }, { like, count: 9_999, vmOf: () => 'vm', timeOf })
  }
  await using mount = await mountProcess(t, '--quiet --cache-size 16MiB')
  const rss = async () =>
    Number(/VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${mount.child.pid}/status`, 'utf8'))?.[1]) / 1024
  const atFirst = await rss()
  const from = performance.now()
  assert.equal((await mount.look(`ls -l $M/by-vm/vm | wc -l; ls $M/by-time/* | wc -l >&2`)).trim(), '10002')
  const listed = await rss()
  const listSeconds = (performance.now() - from) / 1000
  const some = 'ls -d $M/by-vm/vm/*Z | head -1000 | sed s,$,/disks,'
  assert.equal((await mount.look(`find $(${some}) -name '*.raw' | wc -l`)).trim(), '1000')
  const walked = await rss()
  process.stdout.write(
    `at most ${atFirst.toFixed(0)} MiB after the start, ${listed.toFixed(0)} when 10,000 points were listed (${listSeconds.toFixed(1)} s), ${walked.toFixed(0)} when 1,000 of them were looked into; the cache is 16 MiB\n`,
  )
  assert.ok(walked <= 160 + 16, `${walked} MiB`)
  assert.equal(await mount.stop(), 0)
})
