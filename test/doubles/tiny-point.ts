/** A recovery point of the tiny guest in a repository in memory, and the machine that boots it. */
import { readFile } from 'node:fs/promises'
import type { BootRequest } from '../../src/recovery/boot.ts'
import type { PointSummary } from '../../src/repository/repository.ts'
import { type GuestImage, tinyImage } from '../guest/tiny-image.ts'
import { type RepositoryFixture, repositoryFixture } from './repository-fixture.ts'

export const CHUNK = 64 * 1024

export interface TinyPoint {
  readonly image: GuestImage
  readonly fixture: RepositoryFixture
  /** Of the VM 'tiny', with one disk 'vda'. */
  readonly point: PointSummary
  readonly diskBytes: number
  /** Of the chunks that are not all zeros, ascending. */
  readonly chunkOffsets: readonly number[]
  readonly machine: Pick<BootRequest, 'memoryBytes' | 'accelerator' | 'kernel' | 'append' | 'extra'>
}

export async function tinyPoint(): Promise<TinyPoint> {
  const image = await tinyImage()
  const disk = new Uint8Array(await readFile(image.disk))
  const fixture = await repositoryFixture({ chunkSize: CHUNK })
  const writes: [number, Uint8Array][] = []
  for (let at = 0; at < disk.length; at += CHUNK) {
    const chunk = disk.subarray(at, at + CHUNK)
    if (chunk.some(byte => byte !== 0)) writes.push([at, chunk])
  }
  const point = await fixture.writePoint({ vm: 'tiny', disks: [{ name: 'vda', size: disk.length, writes }] })
  const { kernel, initrd, append } = image.direct
  return {
    image,
    fixture,
    point,
    diskBytes: disk.length,
    chunkOffsets: writes.map(([at]) => at),
    machine: {
      memoryBytes: 256 * 1024 * 1024,
      accelerator: 'tcg',
      kernel,
      append,
      extra: ['-initrd', initrd, '-no-reboot'],
    },
  }
}
