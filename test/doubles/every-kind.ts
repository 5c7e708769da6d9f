/** A repository with two objects of every kind, what verify says of it, and the damage that each kind must show. */
import assert from 'node:assert/strict'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { domainId, hex, leaseId, packId, pointId } from '../../src/core/ids.ts'
import { type Random, seededRandom } from '../../src/core/random.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { putDamage } from '../../src/repository/damage-marks.ts'
import * as names from '../../src/repository/object-keys.ts'
import { type OpenedRepository, openRepository } from '../../src/repository/open.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import { verifyChain } from '../../src/repository/verify-chain.ts'
import { verifyObjects } from '../../src/repository/verify-objects.ts'
import { bytesOf, keysOf, noise, type RepositoryFixture, repositoryFixture } from './repository-fixture.ts'

export const kinds: Readonly<Record<string, RegExp>> = {
  config: /^config$/,
  'key slot': /^keys\/[0-9a-f]{16}$/,
  'domain keys': /^keys\/.*\//,
  manifest: /^points\//,
  'data pack': /^packs\//,
  'meta pack': /^meta\//,
  index: /^index\//,
  lease: /^leases\//,
  pin: /^pins\//,
  hold: /^holds\//,
  forgotten: /^forgotten\//,
  fence: /^fences\//,
  gc: /^gc\//,
  damaged: /^damaged\//,
  audit: /^audit\//,
  policy: /^policies\//,
  'lock ledger': /^locks\//,
  'boot trace': /^traces\//,
}

/** A repository has one of these. */
const ONE_OF_A_KIND = ['config', 'key slot', 'domain keys']

const chunk = 4096
const size = 70 * chunk
const domain = domainId('00000000000000aa')

export interface EveryKind extends RepositoryFixture {
  /** Objects that a whole verify names. A repository that does not open is named by its error. */
  found(options?: { readonly trees: boolean }): Promise<readonly string[]>
}

export async function everyKind(): Promise<EveryKind> {
  const fixture = await repositoryFixture()
  const { store, credential, random, repository, writePoint } = fixture
  const disk = (seed: string, chunks: number) => [
    { name: 'vda', size, writes: [[0, noise(seed, chunks * chunk)] as const] },
  ]
  const first = await writePoint({ disks: disk('a', 70) })
  await writePoint({ base: first.id, disks: disk('b', 9) })
  await writePoint({ vm: 'other', disks: disk('c', 40) })
  await putControls(repository, random)
  const common = { store, credential, random, clock: systemClock, host: 'test', pipeline: twinPipeline }
  return {
    ...fixture,
    async found({ trees } = { trees: true }) {
      let opened: OpenedRepository
      try {
        opened = await openRepository({ ...common, pinned: repository.identity })
      } catch (error) {
        assert.ok(isLifeboatError(error))
        // It looks at nothing else in a config that says so.
        return [error.code === 'newer-format' ? 'config' : (error.details.object ?? error.message)]
      }
      const points = await opened.points()
      const inTrees = trees ? (await verifyPoints(opened, { points })).problems : []
      const objects = await verifyObjects(opened.reading, { points })
      const chain = await verifyChain(opened.reading, points, points)
      assert.deepEqual(objects.unknown, [])
      return [...inTrees, ...objects.problems, ...chain.problems].map(({ object }) => object)
    },
  }
}

async function putControls({ reading: { control } }: OpenedRepository, random: Random): Promise<void> {
  const id = () => hex(random(8))
  const when = new Date(0)
  const mark = { who: 'a@b', when: when.toISOString() }
  for (let n = 0; n < 2; n++) {
    await control.put('lease', names.leaseKey(leaseId(id())), { counter: n })
    await control.put('pin', names.pinKey(id()), { counter: n })
    await control.put('hold', names.holdKey(id()), mark)
    await control.put('forgotten', names.forgottenKey(pointId(id())), mark)
    await control.put('fence', names.fenceKey(leaseId(id()), n === 0 ? 'self' : id()), mark)
    await control.put('gc', names.gcKey(id()), { forget: [], condemned: [], dead: {}, sources: {} })
    await control.put('audit', names.auditKey(when, id()), { action: 'forget', details: {}, ...mark })
    await control.put('policy', names.policyKey(n === 0 ? undefined : 'web', when, id()), { keepLast: n })
    await control.put('lock-ledger', names.lockLedgerKey(id()), { extended: [] })
    await control.put('trace', names.traceKey('web', when, id()), { touches: '' })
    const pack = packId(hex(random(16)))
    const object = names.packKey('data', domain, pack)
    const known = { object, slots: [n], contents: [random(20)], points: [], what: 'rot' }
    await putDamage(control, pack, known, { who: 'a@b', now: when })
  }
}

/** Each of so many bits, four truncations, another of its kind under its name. Gives how many were tried; leaves all as it was. */
export async function sweepKind({ store, found }: EveryKind, kind: string, bits: number): Promise<number> {
  const [key = '', other] = keysOf(store, '').filter(name => kinds[kind]!.test(name))
  const good = bytesOf(store, key)
  const random = seededRandom(kind)
  let tried = 0
  const expect = async (what: string, ...named: readonly string[]) => {
    const objects = await found({ trees: /pack|manifest|keys/.test(kind) })
    for (const name of named) assert.ok(objects.includes(name), `${kind}, ${what}: ${name} is not in [${objects}]`)
    tried++
  }
  while (tried < bits) {
    const bit = Buffer.from(random(4)).readUInt32BE() % (good.length * 8)
    // Nobody needs the checksums of a pack but a scrub.
    if (kind.endsWith('pack') && isInChecksums(good, bit >> 3)) continue
    const bytes = good.slice()
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    store.tamper(key, bytes)
    await expect(`bit ${bit}`, key)
  }
  for (const length of [0, 1, good.length >> 1, good.length - 1]) {
    store.tamper(key, good.slice(0, length))
    await expect(`first ${length} bytes`, key)
  }
  assert.ok(other !== undefined || ONE_OF_A_KIND.includes(kind), `there is a second ${kind}`)
  if (other !== undefined) {
    const others = bytesOf(store, other)
    store.tamper(key, others)
    store.tamper(other, good)
    await expect('exchanged', key, other)
    store.tamper(other, others)
  }
  store.tamper(key, good)
  return tried
}

function isInChecksums(pack: Uint8Array, byte: number): boolean {
  const view = new DataView(pack.buffer, pack.byteOffset + pack.length - 64)
  const from = Number(view.getBigUint64(32)) + view.getUint32(40)
  return byte >= from && byte < from + view.getUint32(44)
}
