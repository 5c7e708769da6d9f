/**
 * Every filesystem and volume layout, made by its own tools, opened as a point's disks are and compared file by file with what was put
 * on it: by the reader process what it says it can read, and by the appliance all, with all disks attached to one machine.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { readerGuests } from '../../src/guest/reader.ts'
import { checkDeduplicated, checkLayout, openDisks } from '../doubles/guest-matrix.ts'
import { ownAppliance } from '../doubles/own-appliance.ts'
import { guestDisks } from '../guest/filesystem-images.ts'

const layouts = await guestDisks(line => console.log(line))

test('the reader process shows what was written, or leaves it to the appliance', async () => {
  const open = readerGuests({ clock: systemClock, treePrefix: () => 'matrix' })
  const wrong: string[] = []
  let read = 0
  for (const layout of layouts) {
    await using files = await openDisks(layout.disks)
    await using guest = await open(files.disks)
    const report = await checkLayout(guest, layout, ({ needs }) => needs === 'appliance')
    console.log(`reader: ${report.line}`)
    wrong.push(...report.wrong)
    read += report.compared
    if (layout.name === 'dedup') assert.equal(await checkDeduplicated(guest), '')
  }
  assert.deepEqual(wrong, [])
  assert.ok(read > 3000, `only ${read} files were read by the reader: it leaves too much`)
})

test('one appliance with all disks of all layouts shows what was written', async () => {
  using appliance = ownAppliance()
  await using files = await openDisks(layouts.flatMap(({ disks }) => disks))
  const startedAt = performance.now()
  await using guest = await appliance.open(files.disks)
  const volumes = await guest.volumes()
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
  console.log(`appliance: ${files.disks.length} disks, ${volumes.length} volumes after ${seconds} s`)
  const wrong: string[] = []
  for (const layout of layouts) {
    const report = await checkLayout(guest, layout)
    console.log(`appliance: ${report.line}`)
    wrong.push(...report.wrong)
  }
  assert.equal(await checkDeduplicated(guest), '')
  assert.deepEqual(wrong, [])
})
