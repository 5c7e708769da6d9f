/** Each kind of fault alone and all together, at 1 to 30 % of all requests: done or failed cleanly, no wrong byte, nothing hung. */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { MiB } from '../../src/core/limits.ts'
import { commandLine } from '../doubles/command-line.ts'
import { changeImage, digestOf, makeImage } from '../doubles/disk-image.ts'
import { startS3Fake } from '../doubles/s3-fake.ts'
import { describeTally, FAULT_KINDS, faultRun } from '../doubles/store-faults.ts'

const seed = process.env.SEED ?? String(Math.floor(Math.random() * 1e9))
const rounds = Number(process.env.ROUNDS ?? 1)

suite(`a store that fails at random, seed ${seed}`, { concurrency: 4 }, () => {
  for (const kinds of [...FAULT_KINDS.map(kind => [kind]), FAULT_KINDS])
    test(`${kinds.length === 1 ? kinds[0]?.name : 'everything at once'}, at 1, 3, 10 and 30 % of the requests`, async context => {
      let fired = 0
      for (const percent of [1, 3, 10, 30])
        for (let round = 0; round < rounds; round++) {
          const name = `${seed} ${kinds.map(kind => kind.name)} ${percent} ${round}`
          const tally = await faultRun({ kinds, probability: percent / 100, seed: name })
          context.diagnostic(`${percent} %: ${describeTally(tally)}`)
          fired += tally.fired
        }
      assert.ok(fired > 0, 'a fault fired')
    })
})

/** That less is refused to who slows down is shown by a clock of its own, in slowing.test.ts. */
suite('a store that serves so many requests a second', () => {
  test('a backup and a restore through it come to their end', async context => {
    await using fake = await startS3Fake({ requestsPerSecond: 5 })
    await using t = commandLine({
      AWS_ACCESS_KEY_ID: fake.credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: fake.credentials.secretAccessKey,
      LIFEBOAT_REPO: `s3://test/vms?endpoint=${fake.endpoint}`,
    })
    t.environment.LIFEBOAT_KEY_FILE = t.at('key')
    const image = t.at('disk.raw')
    await makeImage(image, 64 * MiB)
    const lifeboat = async (words: string) => {
      const { code, stdout, stderr } = await t.json(words)
      assert.equal(code, 0, `${words}: ${stdout}${stderr}`)
    }
    await lifeboat('init')
    await lifeboat(`backup vm --image vda=${image}`)
    const digest = await changeImage(image, 10 * MiB, MiB)
    await lifeboat(`backup vm --image vda=${image}`)
    await lifeboat(`restore vm@latest/vda --output ${t.at('out.raw')}`)
    assert.equal(await digestOf(t.at('out.raw')), digest)
    context.diagnostic(`${fake.refusedCount()} of ${fake.requests.length} requests were refused`)
    assert.ok(fake.refusedCount() > 0)
  })
})
