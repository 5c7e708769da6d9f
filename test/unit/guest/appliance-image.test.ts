import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import { applianceCheck } from '../../../src/guest/appliance-check.ts'
import { applianceCommand } from '../../../src/guest/appliance-command.ts'
import { kernelModules } from '../../../src/guest/appliance-modules.ts'
import { wholeRoot } from '../../../src/guest/appliance-root.ts'
import { startAppliance } from '../../../src/guest/appliance-vm.ts'
import { encodeCpio } from '../../../src/guest/cpio.ts'
import { elfNeeds } from '../../../src/guest/elf.ts'

const folder = mkdtempSync(join(tmpdir(), 'appliance-image-'))
after(() => rmSync(folder, { recursive: true, force: true }))

test('cpio unpacks what was encoded, with modes and links', () => {
  const archive = encodeCpio([
    { path: 'a', kind: 'directory' },
    { path: 'a/program', kind: 'file', bytes: Buffer.from('12345'), isProgram: true },
    { path: 'a/link', kind: 'symlink', target: 'program' },
  ])
  const listing = execFileSync('cpio', ['-itv', '--quiet'], { input: archive, encoding: 'utf8' })
  assert.match(listing, /^drwxr-xr-x .* a\n-rwxr-xr-x .* 5 .* a\/program\nlrwxrwxrwx .* a\/link -> program\n$/)
})

test('a program names its loader and its libraries, a script none', () => {
  const needs = elfNeeds(readFileSync(process.execPath))
  assert.match(needs?.loader ?? '', /^\/lib.*\/ld-linux/)
  assert.ok(needs?.libraries.includes('libc.so.6'))
  assert.equal(elfNeeds(Buffer.from('#!/bin/sh\n'.repeat(20))), undefined)
})

test('drivers come after those that they need, and modprobe is told in its order', async () => {
  const module = (name: string, ...fields: readonly string[]) =>
    writeFileSync(join(folder, `${name}.ko`), `\x7fELF\0${fields.map(field => `${field}\0`).join('')}`)
  module('crc', 'depends=', 'alias=crypto-crc')
  module('xor', 'depends=crc')
  module('b-trees', 'depends=xor,crc', 'softdep=pre: hash')
  module('hash', 'depends=')
  module('start', 'depends=hash')
  module('other', 'depends=')
  const found = await kernelModules(folder, { atStart: ['start'], onDemand: ['b_trees', 'absent'] }, () => {
    throw new Error('nothing is compressed')
  })
  const order = found.files.map(({ name }) => name)
  assert.deepEqual(order, ['hash.ko', 'start.ko', 'crc.ko', 'xor.ko', 'b_trees.ko'])
  assert.equal(found.startCount, 2)
  assert.match(found.dep, /^b_trees\.ko: xor\.ko crc\.ko hash\.ko$/m)
  assert.equal(found.alias, 'alias crypto-crc crc\n')
})

test('the root that is started has our scripts, the agent and the names of the disks behind the image', async () => {
  const image = join(folder, 'image')
  writeFileSync(image, '12345')
  const root = await wholeRoot(image, { diskNames: ['vda', 'vdb'], agent: process.argv[1] ?? '' })
  assert.equal(root.toString('latin1', 0, 14), '12345\0\0\x00070701')
  const listing = execFileSync('cpio', ['-it', '--quiet'], { input: root.subarray(8), encoding: 'utf8' }).split('\n')
  for (const name of ['init', 'lifeboat/volumes', 'lifeboat/agent', 'lifeboat/disks/1'])
    assert.ok(listing.includes(name), name)
})

test('the scripts are what a shell can read', () => {
  for (const name of ['init', 'lib.sh', 'volumes', 'mount', 'unlock']) {
    const { status, stderr } = spawnSync('busybox', ['sh', '-n', `appliance/${name}`], { encoding: 'utf8' })
    assert.equal(status, 0, stderr)
  }
})

test('QEMU gets no network, no privileges, a sandbox, a bound on what it writes, and each disk a place of its own', () => {
  const exports = Array.from({ length: limits.applianceDisksMax }, (_, index) => `disk${index}`)
  const paths = { kernel: '/k', root: '/r', nbdSocket: '/a,b/nbd' }
  const words = applianceCommand({ program: 'qemu', accelerator: 'tcg', ...paths, exports, user: 1234 })
  const line = words.join(' ')
  assert.match(
    line,
    /^prlimit --fsize=\d+ --core=0 -- setpriv --no-new-privs --pdeathsig KILL --reuid 1234 --regid 1234 /,
  )
  assert.match(line, / -nic none /)
  assert.match(line, / -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny /)
  assert.match(line, /snapshot=on,file=nbd\+unix:\/\/\/disk0\?socket=\/a%2Cb\/nbd /)
  const places = words.filter(word => word.startsWith('virtio-blk-pci')).map(word => /addr=([^,]+)/.exec(word)?.[1])
  assert.equal(new Set(places).size, limits.applianceDisksMax)
  assert.ok(places.every(place => Number.parseInt(place ?? '', 16) < 32))
})

test('a host without QEMU is told, before anything is made', async () => {
  const image = { kernel: join(folder, 'absent'), root: join(folder, 'absent') }
  const exporter = () => Promise.reject(new Error('nothing is exported'))
  const request = { disks: [], exporter, image, accelerator: 'tcg', temporary: folder, program: 'qemu-absent' } as const
  await assert.rejects(startAppliance(request), error => isLifeboatError(error, 'tool-missing'))
})

test('doctor says whether the appliance was built, and when it is old', async () => {
  const agent = process.execPath
  const empty = await applianceCheck({ cacheDir: folder, clock: systemClock, agent })
  assert.match(empty.found, /not built yet|is not there/)
  const none = await applianceCheck({ cacheDir: folder, clock: systemClock, agent: join(folder, 'absent') })
  assert.equal(none.status, 'warn')
})
