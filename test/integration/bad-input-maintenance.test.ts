/** What people and timers may get wrong with retention, locks, keys and collections: told with what to do, and nothing is harmed. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { after, before, beforeEach, describe, test } from 'node:test'
import {
  done,
  pointOf,
  refused,
  refusedWithoutTrace,
  type SmallRepository,
  smallRepository,
} from '../doubles/bad-input.ts'
import type { CommandLine } from '../doubles/command-line.ts'
import { overS3 } from '../doubles/s3-command-line.ts'
import type { S3Fake } from '../doubles/s3-fake.ts'

const usage = { exit: 2, code: 'usage' } as const
const HOUR_MS = 3_600_000

describe('wrong words and moments', { timeout: 120_000 }, () => {
  let small: SmallRepository
  before(async () => {
    small = await smallRepository()
  })
  beforeEach(() => small.reset())
  after(() => small[Symbol.asyncDispose]())

  const json = (words: string) => small.cli.json(`${small.at} ${words}`)

  for (const [words, message] of [
    ['gc --grace -1', /--grace: '-1'/],
    ['gc --grace soon', /'soon'/],
    ['gc web1', /too many/],
    ['unlock web1', /too many/],
    ['unlock --dry-run', /--pin/],
    ['unlock --pin 0011223344556677', /there is no pin 0011223344556677/],
    ['verify --stored --sample 101', /'101' is no percentage/],
    ['verify --stored --sample -1', /'-1' is no percentage/],
    ['verify --stored web1@latest', /whichever points/],
    ['verify --all --sample 101', /'101' is no percentage/],
    ['key', /missing/],
    ['key remove', /needs the id/],
    ['key remove zzz', /0 keys are named zzz/],
    ['key add --type moon', /moon/],
    ['key destroy --vm web1', /twice/],
    ['key destroy --yes-really web1', /twice/],
    ['key destroy --vm web1 --yes-really other', /twice/],
    ['key destroy --vm web1 --yes-really web1', /shares its keys/],
    ['lock renew', /promises no locks/],
    ['lock show', /promises no locks/],
    ['lock renew web1@latest', /takes no points/],
    ['policy set --keep-fortnightly 2', /unknown option/],
    ['policy set --keep-daily many', /'many'/],
    ['policy set --keep-daily 7 --time-zone Moon/Base', /Moon/],
  ] as const)
    test(`refused with what to do: ${words}`, async () => {
      await refusedWithoutTrace(small.repo, () => json(words), { ...usage, message })
    })

  test('the last key stays, and opens', async () => {
    const { json: listed } = done(await json('key list'))
    const [only] = (listed as { keys: { id: string }[] }).keys
    await refusedWithoutTrace(small.repo, () => json(`key remove ${only?.id}`), { exit: 2, code: 'last-key' })
    done(await json('points'))
  })

  test('a hold on a forgotten point is refused, and none stays', async () => {
    const [older] = small.points
    done(await json(`forget web1@${older}`))
    const answer = await json(`hold add web1@${older} --reason audit`)
    refused(answer, { exit: 1, code: 'point-forgotten', object: `forgotten/${older}` })
    assert.deepEqual((done(await json('hold list')).json as { holds: unknown[] }).holds, [])
  })

  test('unlock where no backup is under way says so, and leaves no trace', async () => {
    assert.deepEqual((done(await json('unlock')).json as { leases: unknown[] }).leases, [])
    assert.match((await small.cli.run(`${small.at} unlock`)).stdout, /no backup is under way/)
    assert.deepEqual((done(await json('log')).json as { entries: unknown[] }).entries, [])
  })
})

const isEmpty = ({ buckets }: S3Fake) => {
  const { objects, versions } = buckets.get('test')!
  return objects.size + versions.size === 0
}

const EXPIRY =
  '<Rule><ID>r</ID><Status>Enabled</Status><Prefix></Prefix><Expiration><Days>30</Days></Expiration></Rule>'

for (const [what, bucket, message] of [
  [
    'with default retention',
    { objectLock: true, defaultRetention: { mode: 'COMPLIANCE', days: 7 } },
    /locks every new object for 7 days/,
  ],
  ['whose rules let objects expire', { lifecycle: EXPIRY }, /(expire|deletes|removes)/],
] as const)
  test(`a bucket ${what} is refused by init, which writes nothing and leaves no key file`, async () => {
    await using place = await overS3(bucket)
    refused(await place.cli.json('init'), { exit: 2, code: 'store-unsuitable', message })
    assert.ok(isEmpty(place.fake))
    assert.equal(existsSync(place.cli.at('key')), false)
  })

test('a lock that two renewals do not fit into is refused with the sum, before the store is asked', async () => {
  await using place = await overS3({ objectLock: true })
  for (const [words, sum] of [
    ['--lock-for 10d --renew-every 6d', /10d is less than twice --renew-every 6d \(2 x 6d = 12d\)/],
    ['--lock-for 1h --renew-every 40m', /\(2 x 40m = 80m\)/],
  ] as const)
    refused(await place.cli.json(`init --lock-mode governance ${words}`), { ...usage, message: sum })
  refused(await place.cli.json('init --lock-mode governance'), { ...usage, message: /--lock-for is missing/ })
  refused(await place.cli.json('init --lock-for 30d'), { ...usage, message: /--lock-mode is missing/ })
  refused(await place.cli.json('init --lock-mode eternal --lock-for 30d'), { ...usage, message: /eternal/ })
  assert.deepEqual(place.fake.requests, [])
})

test('a second init in the same place leaves the first as it was, and its key', async () => {
  await using place = await overS3({})
  done(await place.cli.json('init'))
  const before = new Map(place.fake.buckets.get('test')!.objects)
  refused(await place.cli.json(`--key-file ${place.cli.at('other')} init`), { exit: 2, code: 'repository-exists' })
  assert.deepEqual(new Map(place.fake.buckets.get('test')!.objects), before)
  assert.equal(existsSync(place.cli.at('other')), false)
  done(await place.cli.json('points'))
})

interface Plan {
  readonly keep: readonly { readonly id: string; readonly reasons: readonly string[] }[]
  readonly remove: readonly unknown[]
}

/** Two points. */
async function backedUp(cli: CommandLine): Promise<readonly string[]> {
  const ids: string[] = []
  for (const byte of [1, 2]) {
    await writeFile(cli.at('disk'), new Uint8Array(100_000).fill(byte))
    ids.push(pointOf(done(await cli.json(`backup web1 --image vda=${cli.at('disk')}`))))
  }
  return ids
}

test('retention that would end a point before its lock keeps it, and the plan says until when', async () => {
  await using place = await overS3({ objectLock: true })
  const { cli } = place
  done(await cli.json('init --lock-mode governance --lock-for 30d --renew-every 7d'))
  const [older] = await backedUp(cli)
  for (const words of ['prune --keep-last 1 --dry-run', 'prune --keep-last 1']) {
    const { keep, remove } = done(await cli.json(words)).json as Plan
    assert.deepEqual(remove, [])
    assert.match(keep.find(({ id }) => id === older)?.reasons.join() ?? '', /^locked until \d{4}-\d\d-\d\d/)
  }
  assert.equal((done(await cli.json('points')).json as { points: unknown[] }).points.length, 2)
  refused(await cli.json(`forget web1@${older}`), { exit: 1, code: 'point-protected', message: /locked until/ })
})

test("a clock far off the store's: gc warns, prune and lock renew refuse, whichever of the two is ahead", async () => {
  const skew = { byMs: 0 }
  await using place = await overS3({ objectLock: true }, { skew })
  const { cli, fake } = place
  done(await cli.json('init --lock-mode governance --lock-for 30d --renew-every 7d'))
  await backedUp(cli)
  const collected = async () => done(await cli.json('gc --grace 0s')).stderr
  assert.doesNotMatch(await collected(), /apart/)
  const before = fake.buckets.get('test')!.versions.size
  for (const byMs of [-HOUR_MS, HOUR_MS]) {
    skew.byMs = byMs
    for (const words of ['prune --keep-last 1', 'lock renew', 'lock renew --dry-run'])
      refused(await cli.json(words), { exit: 1, code: 'clock-skew', message: /36\d\d s apart|3599 s apart/ })
    assert.match(await collected(), /warning: this host's clock and the store's are (3599|36\d\d) s apart/)
  }
  assert.equal(fake.buckets.get('test')!.versions.size, before)
})

test('a host that may not write reads without a pin, and is told for how long that is safe', async () => {
  await using place = await overS3({})
  const { cli, fake } = place
  done(await cli.json('init'))
  const [, newest] = await backedUp(cli)
  fake.faults.add({ operation: 'PutObject', fault: { kind: 'error', status: 403, code: 'AccessDenied' }, times: 1000 })
  const { stderr } = done(await cli.json(`restore web1@${newest}/vda --output ${cli.at('out')}`))
  assert.match(stderr, /warning: .*cannot write to the repository.* safe for the grace/)
  assert.deepEqual(new Uint8Array(await readFile(cli.at('out'))), new Uint8Array(100_000).fill(2))
  assert.ok(fake.faults.fired.length > 0)
})
