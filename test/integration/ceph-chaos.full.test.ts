/**
 * A proxy between Lifeboat and Ceph loses answers of what was done, resets, cuts, delays and changes bytes. Backups and
 * restores finish or fail cleanly; what was finished is whole, and no wrong byte is ever given out.
 */
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { suite, test } from 'node:test'
import { MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { type CephCommandLine, cephCommandLine } from '../doubles/ceph-command-line.ts'
import type { ChaosFault, ProxiedRequest } from '../doubles/chaos-proxy.ts'
import { changeImage, digestOf, makeImage } from '../doubles/disk-image.ts'
import { cephLacking } from '../doubles/own-ceph.ts'

const SIZE = 48 * MiB + 512
const seed = process.env.SEED ?? String(Math.floor(Math.random() * 1e9))

type Draw = (request: ProxiedRequest, number: number) => ChaosFault | undefined

/** Draws `faults` with a probability, where one makes sense: bytes are changed of objects only, whose readers authenticate. */
function chance(
  name: string,
  probability: number,
  faults: readonly ChaosFault[],
): { armed: boolean; readonly draw: Draw } {
  const random = seededRandom(`${seed} ${name}`)
  const self = {
    armed: false,
    draw({ method, path }: ProxiedRequest): ChaosFault | undefined {
      const [low = 0, high = 0, which = 0] = random(3)
      if (!self.armed || high * 256 + low >= probability * 65_536) return undefined
      const isObject = !path.includes('?list-type') && /^\/[^/?]+\/[^?]+/.test(path)
      const fitting = faults.filter(
        fault => (fault !== 'flip-up' || method === 'PUT') && (fault !== 'flip-down' || (method === 'GET' && isObject)),
      )
      return fitting[which % fitting.length]
    },
  }
  return self
}

function tally(fired: readonly { readonly fault: string }[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { fault } of fired) counts[fault] = (counts[fault] ?? 0) + 1
  return counts
}

/** Two backups, verify, two restores. Gives what came of each; what succeeded has to be right. */
async function lifeCycle(t: CephCommandLine): Promise<string[]> {
  const outcomes: string[] = []
  const digests: string[] = []
  const image = t.cli.at('disk.raw')
  const out = t.cli.at('out.raw')
  const attempt = async (words: string): Promise<boolean> => {
    const { code, error, stdout } = await t.cli.json(`--retry-for 60s ${words}`)
    // Verify finds what was changed on the way as well as what is stored so: exit code 4, with its problems listed.
    const found = words.startsWith('verify') && code === 4 ? 'problems' : undefined
    outcomes.push(`${words.split(' ')[0]} ${code === 0 ? 'done' : (error.code ?? found ?? stdout)}`)
    assert.ok(code === 0 || found || (error.code !== undefined && error.code !== 'internal'), `${words}: ${stdout}`)
    return code === 0
  }
  digests.push(await makeImage(image, SIZE))
  const first = await attempt(`backup vm --image vda=${image}`)
  digests.push(await changeImage(image, 20 * MiB, 5 * MiB))
  const second = await attempt(`backup vm --image vda=${image}`)
  const expected = [...(first ? [digests[0]] : []), ...(second ? [digests[1]] : [])]
  for (const [index, point] of ['vm@latest', 'vm@latest~1'].slice(0, expected.length).entries()) {
    if (await attempt(`restore ${point}/vda --output ${out} --force`))
      assert.equal(await digestOf(out), expected.at(-1 - index), `${point} restored through chaos`)
    await rm(out, { force: true })
  }
  await attempt('verify --all')
  return outcomes
}

/** With the network well again: every point that was said to be done is there and is right. */
async function checkCalm(t: CephCommandLine): Promise<void> {
  const points = (await t.lifeboat('points')).json as { points: { id: string }[] }
  const verify = (await t.lifeboat('verify --all')).json as { problems: unknown[] }
  assert.deepEqual(verify.problems, [], `of ${points.points.length} points`)
  const image = t.cli.at('disk.raw')
  await t.lifeboat(`backup vm --image vda=${image}`)
  await t.lifeboat(`restore vm@latest/vda --output ${t.cli.at('calm.raw')}`)
  assert.equal(await digestOf(t.cli.at('calm.raw')), await digestOf(image))
}

suite('chaos between Lifeboat and Ceph', { skip: cephLacking }, () => {
  process.stdout.write(`# seed ${seed}\n`)

  test('answers to puts are lost, each key once: everything is done as if they had come', async context => {
    const lost = new Set<string>()
    let armed = false
    await using t = await cephCommandLine({}, ({ method, path }) => {
      if (!armed || method !== 'PUT' || lost.has(path)) return undefined
      lost.add(path)
      return 'lose-answer'
    })
    await t.lifeboat('init')
    armed = true
    const outcomes = await lifeCycle(t)
    context.diagnostic(
      `${t.proxy.fired.length} answers lost of ${t.proxy.requests.length} requests; ${outcomes.join(', ')}`,
    )
    assert.deepEqual(outcomes, ['backup done', 'backup done', 'restore done', 'restore done', 'verify done'])
    assert.ok(t.proxy.fired.length > 10)
    armed = false
    await checkCalm(t)
  })

  test('on a versioned bucket too, where each repetition is another version of the same bytes', async context => {
    const chaos = chance('versioned', 0.3, ['lose-answer'])
    await using t = await cephCommandLine({ versioning: true }, chaos.draw)
    await t.lifeboat('init')
    chaos.armed = true
    const outcomes = await lifeCycle(t)
    chaos.armed = false
    context.diagnostic(
      `${t.proxy.fired.length} answers lost of ${t.proxy.requests.length} requests; ${outcomes.join(', ')}`,
    )
    assert.ok(t.proxy.fired.length > 10)
    await checkCalm(t)
  })

  const storms: [name: string, probability: number, faults: ChaosFault[], kinds: number][] = [
    ['resets and cuts', 0.1, ['lose-answer', 'reset-up', 'cut-down'], 3],
    ['changed bytes up', 0.4, ['flip-up'], 1],
    ['changed bytes down', 0.08, ['flip-down'], 1],
    ['everything at once', 0.15, ['lose-answer', 'reset-up', 'cut-down', 'flip-up', 'flip-down', 'delay'], 3],
  ]
  for (const [name, probability, faults, kinds] of storms)
    test(`${name}: finished or failed cleanly, nothing lost, no wrong byte`, async context => {
      const chaos = chance(name, probability, faults)
      await using t = await cephCommandLine({}, chaos.draw)
      await t.lifeboat('init')
      chaos.armed = true
      const outcomes = await lifeCycle(t)
      chaos.armed = false
      const fired = tally(t.proxy.fired)
      context.diagnostic(`${JSON.stringify(fired)} in ${t.proxy.requests.length} requests; ${outcomes.join(', ')}`)
      assert.ok(Object.keys(fired).length >= kinds, `fired: ${JSON.stringify(fired)}`)
      await checkCalm(t)
    })

  test('refused connections for a while are ridden out', async context => {
    let seen = 0
    await using t = await cephCommandLine({}, ({ path }) => {
      if (path.includes('/packs/') && ++seen === 2) {
        t.proxy.refuse(true)
        setTimeout(() => t.proxy.refuse(false), 3_000)
        return 'lose-answer'
      }
      return undefined
    })
    await t.lifeboat('init')
    const outcomes = await lifeCycle(t)
    const { refuse = 0 } = tally(t.proxy.fired)
    context.diagnostic(`${refuse} connections refused; ${outcomes.join(', ')}`)
    assert.ok(refuse > 0)
    assert.deepEqual(outcomes, ['backup done', 'backup done', 'restore done', 'restore done', 'verify done'])
    await checkCalm(t)
  })
})
