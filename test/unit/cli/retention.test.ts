/** forget, prune, policy, hold and log as people and scripts call them: documents, tables, codes, and bad words. */
import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { done, refused, refusedWithoutTrace, type SmallRepository, smallRepository } from '../../doubles/bad-input.ts'

const usage = { exit: 2, code: 'usage' } as const

interface Listed {
  readonly id: string
  readonly vm: string
  readonly takenAt: string
  readonly reasons: readonly string[]
  readonly why: string
}
interface Document {
  readonly keep: readonly Listed[]
  readonly remove: readonly Listed[]
  readonly gone: readonly Listed[]
  readonly withoutPolicy: readonly string[]
  readonly holds: readonly { id: string; point: string; vm: string; who: string; reason: string }[]
  readonly points: readonly { id: string; state: string; holds: readonly { reason: string }[] }[]
  readonly policies: readonly { vm: string | null; keepLast?: number; timeZone?: string }[]
  readonly entries: readonly { action: string; who: string; details: { points?: readonly string[] } }[]
  readonly damaged: readonly string[]
  readonly earlier: number
}

describe('retention on the command line', { timeout: 120_000 }, () => {
  let small: SmallRepository
  before(async () => {
    small = await smallRepository()
  })
  beforeEach(() => small.reset())
  after(() => small[Symbol.asyncDispose]())

  const json = (words: string) => small.cli.json([...small.at.split(' '), ...words.split(' ')])
  const ok = async (words: string) => done(await json(words)).json as Document
  const untouched = (words: string, refusal: Parameters<typeof refused>[1]) =>
    refusedWithoutTrace(small.repo, () => json(words), refusal)
  const text = async (words: string) => (await small.cli.run([...small.at.split(' '), ...words.split(' ')])).stdout

  test('prune shows its plan, does it, and points no longer lists what went', async () => {
    const [older, newer] = small.points
    const plan = await ok('prune --keep-last 1 --dry-run')
    assert.deepEqual(
      plan.remove.map(({ id, vm, why }) => [id, vm, why]),
      [[older, 'web1', 'outside keep-last 1']],
    )
    assert.deepEqual(plan.keep.find(({ id }) => id === newer)?.reasons, ['last 1', 'newest'])
    assert.ok(plan.keep.every(({ takenAt }) => !Number.isNaN(Date.parse(takenAt))))
    assert.equal((await ok('points')).points.length, 3)
    assert.match(
      await text('prune --keep-last 1 --dry-run'),
      /web1 .* forget +outside keep-last 1\n(.*\n)*2 kept, 1 would be forgotten/,
    )

    assert.equal((await ok('prune --keep-last 1')).remove.length, 1)
    assert.equal((await ok('points')).points.length, 2)
    assert.equal((await ok('points --all')).points.find(({ id }) => id === older)?.state, 'forgotten')
    assert.equal((await ok('prune --keep-last 1')).remove.length, 0)
  })

  test('a policy is set, shown and used; a VM without one is told', async () => {
    await untouched('prune', { ...usage, message: /nobody has said/ })
    assert.deepEqual((await ok('policy show')).policies, [])
    await ok('policy set web1 --keep-last 1 --keep-daily 0')
    const [policy] = (await ok('policy show web1')).policies
    assert.deepEqual([policy?.vm, policy?.keepLast], ['web1', 1])
    assert.match(await text('policy show'), /web1 +keep-last 1, keep-daily 0/)
    const answer = await json('prune')
    assert.match(done(answer).stderr, /nobody has said what to keep of other/)
    const plan = answer.json as Document
    assert.deepEqual([plan.remove.map(({ id }) => id), plan.withoutPolicy], [[small.points[0]], ['other']])
    await ok('policy set --keep-daily 7 --time-zone Europe/Berlin')
    assert.deepEqual((await ok('prune')).withoutPolicy, [])
    assert.equal((await ok('policy show other')).policies[0]?.vm, null)
    await untouched('policy unset other', { ...usage, message: /no policy of its own/ })
    assert.equal((await ok('policy unset web1')).policies[0]?.vm, null)
    assert.equal((await ok('policy show web1')).policies[0]?.timeZone, 'Europe/Berlin')
    assert.deepEqual((await ok('policy unset')).policies, [])
    await untouched('prune', { ...usage, message: /nobody has said/ })
  })

  test('a policy that names no zone gets that of the host which sets it', async () => {
    await ok('policy set web1 --keep-last 1')
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone
    assert.equal((await ok('policy show web1')).policies[0]?.timeZone, zone)
  })

  test('a held point is not forgotten; points shows the hold, and hold remove lifts it', async () => {
    const { holds } = await ok('hold add web1@latest~1 --reason audit')
    assert.deepEqual([holds[0]?.point, holds[0]?.reason], [small.points[0], 'audit'])
    assert.equal((await ok('points web1')).points[0]?.holds[0]?.reason, 'audit')
    assert.deepEqual(
      (await ok('hold list')).holds.map(({ vm, reason }) => [vm, reason]),
      [['web1', 'audit']],
    )
    await untouched('forget web1@latest~1', { exit: 1, code: 'point-protected', message: /held by .*\(audit\)/ })
    const dry = await json('forget web1@latest~1 --dry-run')
    assert.equal(dry.code, 1)
    assert.match((dry.json as Document).keep[0]?.reasons[0] ?? '', /^held by/)
    const { holds: more } = await ok('hold add web1@latest~1 --reason another')
    await untouched('hold remove web1@latest~1', { ...usage, code: 'ambiguous', message: /2 holds/ })
    await ok(`hold remove web1@latest~1 --hold ${more[0]?.id}`)
    await ok('hold remove web1@latest~1')
    assert.equal((await ok('forget web1@latest~1 --reason space')).remove[0]?.why, 'space')
    assert.deepEqual(
      (await ok(`forget web1@${small.points[0]}`)).gone.map(({ id }) => id),
      [small.points[0]],
    )
    refused(await json(`hold add web1@${small.points[0]} --reason late`), { exit: 1, code: 'point-forgotten' })
    assert.deepEqual((await ok('hold list')).holds, [])
  })

  test('a damaged hold stops forget, is named by hold list, and goes by its id', async () => {
    const { holds } = await ok('hold add web1@latest --reason audit')
    const file = path.join(small.repo, 'holds', holds[0]?.id ?? '')
    await writeFile(file, (await readFile(file)).fill(7, 30, 40))
    refused(await json('forget web1@latest~1'), { exit: 4, code: 'corrupt-object', object: `holds/${holds[0]?.id}` })
    const listed = await json('hold list')
    assert.equal(listed.code, 4)
    assert.match(listed.stderr, /does not authenticate/)
    await ok(`hold remove --hold ${holds[0]?.id}`)
    await ok('forget web1@latest~1')
  })

  test('the newest point goes with --last-point only, and a damaged one without', async () => {
    await untouched('forget other@latest', { exit: 1, code: 'point-protected', message: /newest/ })
    const folder = path.join(small.repo, 'points', 'web1')
    const [, name = ''] = (await readdir(folder)).sort()
    await writeFile(path.join(folder, name), 'rotten')
    const pruned = await json('prune --keep-last 1')
    assert.equal(pruned.code, 4, 'damage is told')
    assert.deepEqual((pruned.json as Document).damaged, [`points/web1/${name}`])
    assert.equal((pruned.json as Document).remove.length, 0, 'the good one stays')
    await ok(`forget web1@${small.points[1]}`)
    await ok('forget other@latest --last-point')
    assert.deepEqual(
      (await ok('points')).points.map(({ id }) => id),
      [small.points[0]],
    )
  })

  test('the log says who did what, newest last, and names what is damaged', async () => {
    assert.deepEqual((await ok('log')).entries, [])
    await ok('policy set --keep-last 1')
    await ok('hold add web1@latest --reason audit')
    await ok('forget web1@latest~1')
    const { entries } = await ok('log --since 1h')
    assert.deepEqual(
      entries.map(({ action }) => action),
      ['policy-set', 'hold-add', 'forget'],
    )
    assert.ok(entries.every(({ who }) => /.@./.test(who)))
    assert.match(entries[2]?.details.points?.[0] ?? '', new RegExp(small.points[0]))
    const last = await ok('log --limit 1')
    assert.deepEqual([last.entries.map(({ action }) => action), last.earlier], [['forget'], 2])
    assert.deepEqual((await ok('log --since 2999-01-01')).entries, [])
    const folder = path.join(small.repo, 'audit')
    const [first = ''] = (await readdir(folder)).sort()
    await writeFile(path.join(folder, first), 'rotten')
    const answer = await json('log')
    assert.equal(answer.code, 4)
    assert.deepEqual((answer.json as Document).damaged, [`audit/${first}`])
    assert.equal((answer.json as Document).entries.length, 2)
  })

  for (const [words, message] of [
    ['prune --keep-last x', /--keep-last 'x'/],
    ['prune --keep-last -1', /keep-last/],
    ['prune --keep-daily 1.5', /--keep-daily/],
    ['prune --keep-daily 100001', /100000/],
    ['prune --keep-last 0', /keeps nothing/],
    ['prune --keep-last 0 --remove-everything', /one VM/],
    ['prune --time-zone UTC', /what to keep/],
    ['prune --keep-last 1 --time-zone Nowhere/Here', /Nowhere/],
    ['prune web1 --keep-last 1', /too many arguments/],
    ['policy set', /what to keep/],
    ['policy set --keep-last 0', /keeps nothing/],
    ['policy show --keep-last 1', /no flags/],
    ['policy unset --keep-last 1', /no flags/],
    ['policy unset', /no default/],
    ['policy drop web1', /policy drop/],
    ['hold', /missing/],
    ['hold add', /needs a point/],
    ['hold add web1@latest', /--reason/],
    ['hold remove', /needs a point/],
    ['hold remove web1@latest', /no such hold/],
    ['hold remove --hold zzz', /no id of a hold/],
    ['hold remove --hold 0011223344556677', /no such hold/],
    ['hold take web1@latest', /hold take/],
    ['forget', /missing/],
    ['log --limit 0', /--limit/],
    ['log --limit many', /--limit/],
    ['log --since yesterday', /--since/],
    ['log --since 2026-02-30', /does not exist/],
  ] as const)
    test(`refused with what to do: ${words}`, async () => {
      await untouched(words, { ...usage, message })
    })

  test('points and VMs that are not there', async () => {
    await untouched('forget web1@ffff', { exit: 2, code: 'no-such-point' })
    await untouched('forget nobody@latest', { exit: 2, code: 'no-such-vm' })
    await untouched('hold add nobody@latest --reason x', { exit: 2, code: 'no-such-vm' })
    await untouched('prune --vm nobody --keep-last 1', { exit: 2, code: 'no-such-vm' })
  })
})
