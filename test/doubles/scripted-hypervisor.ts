/** A hypervisor over arrays of bytes, whose bitmaps say what the test tells them to, truly or not. */

import { memoryDevice } from '../../src/block/memory.ts'
import type { ChangeSet } from '../../src/cbt/change-tracker.ts'
import type { PointId } from '../../src/core/ids.ts'
import type { Capture, CaptureRequest, Hypervisor } from '../../src/hypervisor/hypervisor.ts'

export interface ScriptedDisk {
  readonly name: string
  readonly bytes: Uint8Array
  readonly changes: ChangeSet
  readonly base?: PointId
}

export interface ScriptedHypervisor extends Hypervisor {
  disks: readonly ScriptedDisk[]
  /** What happened, in order: 'capture', 'committed', 'released'. */
  readonly events: string[]
  /** Of the last capture. */
  request?: CaptureRequest
  /** Bytes read of each disk. */
  readonly bytesRead: Map<string, number>
  /** Breaks the view when this many bytes were read. */
  breakAfter?: { bytes: number; error: Error }
}

export function scriptedHypervisor(disks: readonly ScriptedDisk[] = []): ScriptedHypervisor {
  const hypervisor: ScriptedHypervisor = {
    disks,
    events: [],
    bytesRead: new Map(),
    async capture(request) {
      hypervisor.request = request
      hypervisor.events.push('capture')
      let fail: (error: Error) => void = () => {}
      const broken = new Promise<never>((_, reject) => {
        fail = reject
      })
      const capture: Capture = {
        vm: {
          name: 'vm',
          machine: 'pc',
          memoryBytes: 1 << 28,
          firmware: { kind: 'uefi', variables: Uint8Array.of(1, 2, 3) },
        },
        consistency: 'crash',
        takenAt: new Date(0),
        omitted: [{ name: 'cd0', reason: 'removable' }],
        broken,
        disks: hypervisor.disks.map(({ name, bytes, changes, base }) => {
          const device = memoryDevice(bytes)
          return {
            description: { name, size: bytes.length, bus: 'virtio-blk' },
            changes,
            base,
            image: {
              ...device,
              async readInto(target, offset) {
                hypervisor.bytesRead.set(name, (hypervisor.bytesRead.get(name) ?? 0) + target.length)
                const { breakAfter } = hypervisor
                if (breakAfter && (hypervisor.bytesRead.get(name) ?? 0) > breakAfter.bytes) {
                  fail(breakAfter.error)
                  throw new Error('EINVAL')
                }
                await device.readInto(target, offset)
              },
            },
          }
        }),
        async committed() {
          hypervisor.events.push('committed')
        },
        async [Symbol.asyncDispose]() {
          hypervisor.events.push('released')
        },
      }
      return capture
    },
    async [Symbol.asyncDispose]() {},
  }
  return hypervisor
}
