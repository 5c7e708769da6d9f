/**
 * A copy-before-write filter between device and disk, and a snapshot-access node over it (QEMU 7.1 and later). With
 * `break-snapshot`, trouble with the fleecing image breaks the view: the guest's write goes through and never notices.
 * The filter is put in without its `bitmap` argument: with it, clean areas could not be read, and so not be audited.
 */
import { limits } from '../../core/limits.ts'
import { type FreezingMethod, filterNode, fleeceNode, viewNode } from './freezing-method.ts'

export const copyBeforeWrite: FreezingMethod = {
  name: 'copy-before-write',
  viewOf: ({ index }) => viewNode(index),
  bitmapRef: ({ disk }, name) => ({ node: disk.node, name }),

  async prepare(qmp, disks, options) {
    for (const { index, disk, image } of disks) {
      await qmp.execute(
        'blockdev-add',
        {
          'node-name': fleeceNode(index),
          driver: 'qcow2',
          discard: 'unmap',
          file: { driver: 'file', filename: image },
        },
        options,
      )
      // Without a user above it the filter sees no write yet and forbids none.
      await qmp.execute(
        'blockdev-add',
        {
          'node-name': filterNode(index),
          driver: 'copy-before-write',
          file: disk.node,
          target: fleeceNode(index),
          'on-cbw-error': 'break-snapshot',
          'cbw-timeout': limits.cbwTimeoutSeconds,
        },
        options,
      )
    }
  },

  async insert(qmp, disks, options) {
    for (const { index, disk } of disks)
      await qmp.execute('qom-set', { path: disk.path, property: 'drive', value: filterNode(index) }, options)
    return []
  },

  async expose(qmp, disks, options) {
    for (const { index } of disks)
      await qmp.execute(
        'blockdev-add',
        { 'node-name': viewNode(index), driver: 'snapshot-access', file: filterNode(index) },
        options,
      )
  },
}
