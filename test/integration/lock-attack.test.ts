/** Immutability by the command line over S3: everything is attacked with the store's own credentials, everything restores. */
import { test } from 'node:test'
import { lockStory } from '../doubles/lock-story.ts'
import { startS3Fake } from '../doubles/s3-fake.ts'

test('locked points survive who may write and delete in the bucket, are told of, and can be repaired', async t => {
  await using fake = await startS3Fake({ buckets: { locked: { objectLock: true }, plain: {} } })
  t.diagnostic(JSON.stringify(await lockStory({ place: fake, bucket: 'locked', plainBucket: 'plain' })))
})
