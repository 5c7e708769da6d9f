/** The same as lock-attack.test.ts on a store that really locks. */
import { test } from 'node:test'
import { ceph, cephBucket } from '../doubles/ceph.ts'
import { lockStory } from '../doubles/lock-story.ts'
import { cephLacking } from '../doubles/own-ceph.ts'

test('locked points survive an attack with the credentials of the bucket, on Ceph', { skip: cephLacking }, async t => {
  const place = await ceph()
  const bucket = await cephBucket({ objectLock: true })
  t.diagnostic(JSON.stringify(await lockStory({ place, bucket, plainBucket: await cephBucket() })))
})
