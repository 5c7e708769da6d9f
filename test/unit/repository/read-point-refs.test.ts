import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { pointId } from '../../../src/core/ids.ts'
import { pointKey } from '../../../src/repository/object-keys.ts'
import { parsePointReference, resolvePoint, splitDisk } from '../../../src/repository/point-ref.ts'
import type { PointSummary } from '../../../src/repository/repository.ts'

const point = (vm: string, id: string, takenAt: string, state: PointSummary['state'] = 'committed'): PointSummary => {
  const time = new Date(takenAt)
  const parsed = pointId(id.padEnd(16, '0'))
  return { id: parsed, vm, takenAt: time, key: pointKey(vm, time, parsed), state }
}

const points = [
  point('db', 'aa', '2026-11-20T10:00:00Z'),
  point('web', '12ab', '2026-11-20T10:00:00Z'),
  point('web', '12cd', '2026-11-21T09:59:59Z'),
  point('web', 'fe', '2026-11-21T10:00:00Z', 'forgotten'),
  point('web', '34', '2026-11-21T10:00:01Z'),
]
const idOf = (text: string, zone = 'UTC') =>
  resolvePoint(parsePointReference(text, { zone }), points).id.replace(/0+$/, '')
const fails =
  (code: string, hint = /./) =>
  (error: unknown) =>
    isLifeboatError(error) && error.code === code && hint.test(String(error.details.hint))

test('a point is named by latest, by so many before it, by the first letters of its id, or by a time', () => {
  assert.equal(idOf('web@latest'), '34')
  assert.equal(idOf('web@latest~1'), '12cd')
  assert.equal(idOf('web@latest~2'), '12ab')
  assert.equal(idOf('web@12c'), '12cd')
  assert.equal(idOf('web@34~1'), '12cd')
  assert.equal(idOf('web@fe'), 'fe')
  assert.equal(idOf('web@2026-11-21T10:00'), '12cd')
  assert.equal(idOf('web@2026-11-21T10:00:01'), '34')
  assert.equal(idOf('web@2026-11-21 10:00:01'), '34')
  assert.equal(idOf('web@2026-11-20'), '12ab')
  assert.equal(idOf('web@2026-11-21T10:00Z', 'America/New_York'), '12cd')
  assert.equal(idOf('web@2026-11-21T11:00:01+01:00', 'America/New_York'), '34')
})

test('a time without a zone is the reader`s local time, also around a change of clocks', () => {
  const at = (text: string, zone: string) => {
    const { at } = parsePointReference(`web@${text}`, { zone })
    return at.kind === 'time' ? at.time.toISOString() : undefined
  }
  assert.equal(at('2026-11-21T10:00', 'Europe/Berlin'), '2026-11-21T09:00:00.000Z')
  assert.equal(at('2026-07-01T10:00', 'Europe/Berlin'), '2026-07-01T08:00:00.000Z')
  assert.equal(at('2026-07-01T10:00', 'Asia/Kathmandu'), '2026-07-01T04:15:00.000Z')
  // This hour comes twice: the later one, so that no point of the earlier is left out.
  assert.equal(at('2026-10-25T02:30', 'Europe/Berlin'), '2026-10-25T01:30:00.000Z')
  // And this one never.
  assert.match(String(at('2026-03-29T02:30', 'Europe/Berlin')), /^2026-03-29T0[01]:30/)
  assert.equal(at('2026-11-21', 'Europe/Berlin'), '2026-11-21T22:59:59.999Z')
})

test('a disk and a path may stand behind the point', () => {
  const parse = (text: string) => {
    const { vm, at, disk, path } = parsePointReference(text)
    return [vm, at.kind, disk, path]
  }
  assert.deepEqual(parse('web@latest/vda'), ['web', 'latest', 'vda', undefined])
  assert.deepEqual(parse('web@latest:/etc/fstab'), ['web', 'latest', undefined, '/etc/fstab'])
  assert.deepEqual(parse('web@2026-11-21T10:00/vda/p2:/a@b:/c'), ['web', 'time', 'vda/p2', '/a@b:/c'])
  assert.deepEqual(parse('a@b@12'), ['a@b', 'id', undefined, undefined])
  assert.deepEqual(parse('m\u00fcller & co@latest~3/scsi0:1'), ['m\u00fcller & co', 'latest', 'scsi0:1', undefined])
  for (const text of [
    '',
    'web',
    'web@',
    '@latest',
    'web@newest',
    'web@LATEST',
    'web@xyz',
    'web@latest~',
    'web@latest:relative',
  ])
    assert.throws(() => parsePointReference(text), fails('usage'), text)
  for (const text of ['web@2026-13-01T10:00', 'web@2026-02-30', 'web@2026-11-21T25:00'])
    assert.throws(() => parsePointReference(text), fails('usage'), text)
})

test('what is not there is refused with what there is', () => {
  assert.throws(() => idOf('wbe@latest'), fails('no-such-vm', /Did you mean web/))
  assert.throws(() => idOf('unrelated@latest'), fails('no-such-vm', /db, web/))
  assert.throws(() => idOf('web@77'), fails('no-such-point', /34/))
  assert.throws(() => idOf('web@latest~9'), fails('no-such-point'))
  assert.throws(() => idOf('web@2025-01-01T00:00'), fails('no-such-point'))
  assert.throws(() => idOf('web@12'), fails('ambiguous', /12ab0.*12cd0/))
  assert.throws(() => resolvePoint(parsePointReference('web@latest'), []), fails('no-such-vm', /no points yet/))
})

test('a disk`s name may contain slashes, and a volume stands behind it', () => {
  const disks = ['vda', 'scsi/0', 'scsi']
  assert.deepEqual(splitDisk('vda', disks), { disk: 'vda' })
  assert.deepEqual(splitDisk('vda/p2', disks), { disk: 'vda', volume: 'p2' })
  assert.deepEqual(splitDisk('scsi/0', disks), { disk: 'scsi/0' })
  assert.deepEqual(splitDisk('scsi/0/vg-root', disks), { disk: 'scsi/0', volume: 'vg-root' })
  assert.throws(() => splitDisk('vdb', disks), fails('no-such-disk', /vda/))
})
