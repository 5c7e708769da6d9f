/**
 * Disks that were made to do harm, restored as a person in a hurry would: nothing may land outside of the target, what is wrong is told,
 * and what is whole beside it comes out. By the reader process, one disk after the other, and by one appliance with all of them.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { readerGuests } from '../../src/guest/reader.ts'
import { openDisks } from '../doubles/guest-matrix.ts'
import { observe } from '../doubles/hostile-observation.ts'
import { ownAppliance } from '../doubles/own-appliance.ts'
import { guestDisks } from '../guest/filesystem-images.ts'
import { hostileDisks } from '../guest/hostile-images.ts'

const images = await hostileDisks(await guestDisks(line => console.log(line)))

test('hostile disks neither escape nor end the reader for others', async () => {
  const open = readerGuests({ clock: systemClock, treePrefix: () => 'hostile' })
  const wrong: string[] = []
  for (const image of images) {
    await using files = await openDisks([image.disk])
    await using guest = await open(files.disks)
    const seen = await observe(guest, image, ({ needs }) => needs === 'appliance')
    console.log(`reader: ${seen.line}`)
    wrong.push(...seen.wrong.map(what => `${image.name}: ${what}`))
  }
  assert.deepEqual(wrong, [])
})

test('hostile disks in one appliance neither escape nor keep it from the others', async () => {
  using appliance = ownAppliance()
  await using files = await openDisks(images.map(({ disk }) => disk))
  await using guest = await appliance.open(files.disks)
  const wrong: string[] = []
  for (const image of images) {
    const seen = await observe(guest, image)
    console.log(`appliance: ${seen.line}`)
    wrong.push(...seen.wrong.map(what => `${image.name}: ${what}`))
  }
  assert.deepEqual(wrong, [])
})
