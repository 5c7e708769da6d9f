/** Who reads which volume: the reader what it can, the appliance the rest, started when something needs it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryDevice } from '../../../src/block/memory.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { file } from '../../../src/files/memory-tree.ts'
import type { GuestDisk } from '../../../src/guest/guest-filesystems.ts'
import { type ChosenFilesystems, openGuest } from '../../../src/guest/open-guest.ts'
import { guestDisk, type MemoryVolume, memoryGuests } from '../../doubles/memory-guest.ts'

const boot: MemoryVolume = { name: 'vda-p1', disk: 'vda', entries: { kernel: file('k') } }
const lvm: MemoryVolume = {
  name: 'vda-p2',
  disk: 'vda',
  type: 'LVM2_member',
  state: 'nothing',
  reason: 'a part of LVM',
  needs: 'appliance',
}
const quick = [boot, lvm, { name: 'vda-p3', disk: 'vda', type: 'swap', state: 'nothing' } as const]
const whole: readonly MemoryVolume[] = [
  boot,
  { ...lvm, needs: undefined },
  { name: 'vda-p3', disk: 'vda', type: 'swap', state: 'nothing' },
  { name: 'vg-root', entries: { etc: file('e') } },
]

test('what the reader reads alone never starts the appliance', async () => {
  const reader = memoryGuests({ a: [boot] })
  const appliance = memoryGuests({ a: whole })
  await using guest = await opened({ reader: reader.open, appliance: appliance.open })
  assert.deepEqual(names(await guest.volumes()), ['vda-p1'])
  await guest.open('vda-p1')
  assert.deepEqual(appliance.asked, [])
})

test('the first volume that needs it starts the appliance, once for all; what the reader has stays with the reader', async () => {
  const reader = memoryGuests({ a: quick })
  const appliance = memoryGuests({ a: whole })
  {
    await using guest = await opened({ reader: reader.open, appliance: appliance.open })
    await guest.open('vda-p1')
    assert.equal(appliance.asked.length, 0)
    const lists = await Promise.all([guest.volumes(), guest.volumes()])
    for (const list of lists) assert.deepEqual(names(list), ['vda-p1', 'vda-p2', 'vda-p3', 'vg-root'])
    await guest.open('vg-root')
    await guest.open('vda-p1')
    assert.deepEqual(
      appliance.asked.filter(asked => asked.startsWith('open')),
      ['open vda'],
    )
    assert.deepEqual(
      reader.asked.filter(asked => asked.startsWith('tree')),
      ['tree vda-p1', 'tree vda-p1'],
    )
  }
  assert.equal(reader.asked.at(-1), 'close')
  assert.equal(appliance.asked.at(-1), 'close')
})

test('without the appliance its volumes say why they cannot be read, and the others are read', async () => {
  const reader = memoryGuests({ a: quick })
  const broken = memoryGuests({ a: new LifeboatError('tool-missing', 'no QEMU', { hint: 'install qemu-system-x86' }) })
  for (const appliance of [broken.open, undefined]) {
    await using guest = await opened({ reader: reader.open, appliance })
    const [first, second] = await guest.volumes()
    assert.equal(first?.state, 'readable')
    assert.equal(second?.state, 'unsupported')
    assert.match(second?.reason ?? '', appliance ? /a part of LVM.*no QEMU.*install qemu/ : /a part of LVM.*nothing/)
    await guest.open('vda-p1')
    await assert.rejects(guest.open('vda-p2'), { code: 'guest-unsupported', message: /vda-p2.*LVM/ })
    await assert.rejects(guest.open('vg-root'), { code: 'no-such-volume' })
  }
})

test('without a reader the appliance reads all; without either it is said what to do', async () => {
  const appliance = memoryGuests({ a: whole })
  const reader = memoryGuests({ a: new LifeboatError('tool-missing', 'no reader') })
  for (const given of [{ appliance: appliance.open }, { appliance: appliance.open, reader: reader.open }]) {
    await using guest = await opened(given)
    assert.deepEqual(names(await guest.volumes()), ['vda-p1', 'vda-p2', 'vda-p3', 'vg-root'])
    await guest.open('vda-p1')
  }
  await using nobody = await opened({})
  await assert.rejects(nobody.volumes(), { code: 'guest-unsupported' })
})

test('a key opens its volume; one with a line end behind it too; a wrong one leaves it locked, and says so', async () => {
  const locked: MemoryVolume = { name: 'vda-p2', disk: 'vda', type: 'crypto_LUKS', key: 'secret', entries: {} }
  const open = async (key: string) => {
    const appliance = memoryGuests({ a: [boot, locked] })
    const keys = new Map([['vda-p2', Buffer.from(key)]])
    const guest = await opened({ appliance: appliance.open, keys })
    return { guest, asked: appliance.asked, volume: (await guest.volumes())[1] }
  }
  assert.equal((await open('secret')).volume?.state, 'readable')
  assert.equal((await open('secret\n')).volume?.state, 'readable')
  const { guest, asked, volume } = await open('other')
  assert.equal(volume?.state, 'locked')
  assert.match(volume?.reason ?? '', /does not fit/)
  await assert.rejects(guest.open('vda-p2'), { code: 'guest-locked', message: /does not fit/ })
  assert.equal(asked.filter(one => one.startsWith('unlock')).length, 1, 'it is tried once')
})

test('whoever stops waiting for the appliance does not end it for the others', async () => {
  const appliance = memoryGuests({ a: whole })
  let start = () => {}
  const started = new Promise<void>(resolve => {
    start = resolve
  })
  await using guest = await opened({
    appliance: async (disks, options) => {
      await started
      return await appliance.open(disks, options)
    },
  })
  const impatient = new AbortController()
  const first = guest.volumes({ signal: impatient.signal })
  const second = guest.volumes()
  impatient.abort(new Error('enough'))
  await assert.rejects(first, /enough/)
  start()
  assert.equal((await second).length, 4)
})

const opened = (request: Parameters<typeof openGuest>[0]): Promise<ChosenFilesystems> => openGuest(request)(disks)

const disks: readonly GuestDisk[] = [{ name: 'vda', image: memoryDevice(guestDisk('a')) }]

const names = (volumes: readonly { name: string }[]): string[] => volumes.map(({ name }) => name)
