/** `lifeboat mount` as people use it: real disks of a real repository, looked at by the programs that one has. */
import assert from 'node:assert/strict'
import { mkdir, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { commandLine } from '../doubles/command-line.ts'
import { inShell, isMounted, mountProcess, noMounts } from '../doubles/mount-process.ts'
import { lacking } from '../doubles/peer-tools.ts'

const tools = noMounts() || lacking('fusermount3', 'qemu-img', 'mkfs.ext4', 'losetup', 'file')

/** A repository with a sparse disk and one with an ext4. */
async function repository() {
  const t = commandLine()
  Object.assign(t.environment, { LIFEBOAT_REPO: t.at('repo'), LIFEBOAT_KEY_FILE: t.at('key') })
  await mkdir(t.at('guest'))
  await writeFile(t.at('guest', 'hello'), 'from inside the guest\n')
  const made = await inShell(`
    set -e; cd '${t.dir}'
    truncate -s 96M vda.raw
    head -c 5M /dev/urandom | dd of=vda.raw bs=1M seek=20 conv=notrunc status=none
    head -c 5000 /dev/urandom | dd of=vda.raw bs=1 seek=$((96 * 1024 * 1024 - 5000)) conv=notrunc status=none
    mkfs.ext4 -q -F -d guest vdb.raw 24M`)
  assert.equal(made.code, 0, made.stderr)
  for (const words of ['init', `backup web1 --image vda=${t.at('vda.raw')} --image vdb=${t.at('vdb.raw')}`]) {
    const { code, stderr } = await t.json(words)
    assert.equal(code, 0, stderr)
  }
  return t
}

test('a disk in the mount is the disk that was backed up, for every program', { skip: tools }, async () => {
  await using t = await repository()
  await using mount = await mountProcess(t, '--json')
  assert.deepEqual(Object.keys(JSON.parse(mount.said.stdout)).includes('mountPoint'), true)
  const disks = '$M/by-vm/web1/latest/disks'
  const source = `'${t.dir}'`
  const listed = await mount.look(
    `set -e; ls -l ${disks}; find $M | sort | sed "s|^$M||" | head -20; cat $M/by-vm/web1/latest/manifest.json | head -3`,
  )
  process.stdout.write(listed)
  assert.match(listed, /-r--r--r-- 1 root root 100663296 .* vda\.raw/)
  await mount.look(`set -e
    cmp ${disks}/vda.raw ${source}/vda.raw
    cmp ${disks}/vdb.raw ${source}/vdb.raw
    qemu-img info -f raw ${disks}/vda.raw
    qemu-img compare -f raw -F raw ${disks}/vda.raw ${source}/vda.raw
    dd if=${disks}/vda.raw of=/dev/null bs=1M iflag=direct status=none
    dd if=${disks}/vda.raw bs=4096 skip=5120 count=64 iflag=direct status=none | cmp - <(dd if=${source}/vda.raw bs=4096 skip=5120 count=64 status=none)
    cp --sparse=always ${disks}/vda.raw '${t.at('copy')}' && cmp '${t.at('copy')}' ${source}/vda.raw
    file -s ${disks}/vdb.raw | grep -q 'ext4 filesystem'`)
  const [taken = Number.NaN, apparent] = (
    await mount.look(`du -k ${disks}/vda.raw | cut -f1; du -k --apparent-size ${disks}/vda.raw | cut -f1`)
  )
    .trim()
    .split('\n')
    .map(Number)
  const map = (await mount.look(`qemu-img map -f raw --output=json ${disks}/vda.raw`)).trim()
  const data = (JSON.parse(map) as { start: number; length: number; data: boolean }[]).filter(extent => extent.data)
  process.stdout.write(
    `vda.raw takes ${taken} KiB of ${apparent}; data: ${data.map(({ start, length }) => `${start}+${length}`).join(', ')}\n`,
  )
  assert.ok(taken >= 5120 && taken < 6000, `${taken}`)
  assert.deepEqual(
    data.map(({ start }) => start),
    [20 * 2 ** 20, 96 * 2 ** 20 - 65_536],
  )

  const hello = await mount.look(`set -e
    loop=$(losetup --read-only --find --show ${disks}/vdb.raw); trap 'umount $loop 2>/dev/null; losetup -d $loop' EXIT
    mkdir '${t.at('ext4')}'; mount -o ro,noload $loop '${t.at('ext4')}'; cat '${t.at('ext4')}/hello'`)
  assert.equal(hello, 'from inside the guest\n')

  const refused =
    await mount.look(`for it in "touch $M/x" "rm $M/by-vm/web1/latest/manifest.json" "mkdir $M/by-vm/y" "truncate -s 1 ${disks}/vda.raw" "mv $M/by-vm $M/z"; do
    eval "$it" 2>&1 && echo "done: $it" || true; done`)
  assert.equal(refused.split('\n').filter(line => line.includes('Read-only file system')).length, 5, refused)

  assert.equal(await mount.stop(), 0, mount.said.stderr)
  assert.equal(await isMounted(mount.dir), false)
})

test('fusermount3 -u ends it with 0; what cannot be a mount point is refused with what to do', {
  skip: tools,
}, async () => {
  await using t = await repository()
  {
    await using mount = await mountProcess(t)
    assert.equal(mount.said.stdout, `${mount.dir}\n`)
    const again = await t.json(`mount ${mount.dir}`)
    assert.deepEqual([again.code, again.error.code], [2, 'mount-point'], again.stderr)
    assert.equal((await inShell(`fusermount3 -u '${mount.dir}'`)).code, 0)
    assert.equal(await mount.ended, 0, mount.said.stderr)
  }
  for (const place of [t.at('absent'), t.at('vda.raw'), t.dir]) {
    const { code, error, stderr } = await t.json(`mount ${place}`)
    process.stdout.write(`${error.message}: ${error.hint}\n`)
    assert.deepEqual([code, error.code, Boolean(error.hint)], [2, 'mount-point', true], stderr)
  }
})

test('kill -9 while somebody reads leaves no dead mount, and nobody hangs', { skip: tools }, async () => {
  await using t = await repository()
  await using mount = await mountProcess(t)
  const reading = mount.look(
    `for n in $(seq 200); do dd if=$M/by-vm/web1/latest/disks/vda.raw of=/dev/null bs=64K iflag=direct status=none || exit 0; done; echo 'never failed'; exit 1`,
    { ms: 30_000 },
  )
  await mount.look('for n in $(seq 100); do ls $M/by-vm > /dev/null; done')
  mount.child.kill('SIGKILL')
  await mount.ended
  await reading
  let looks = 0
  while (await isMounted(mount.dir)) {
    assert.ok(++looks < 1_000, 'a dead mount stays')
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  const { code, stdout } = await inShell(`ls -A '${mount.dir}' | wc -l`, { ms: 10_000 })
  process.stdout.write(`killed while read: the reader got an error, the mount was gone after ${looks * 10} ms\n`)
  assert.deepEqual([code, stdout.trim()], [0, '0'])
})
