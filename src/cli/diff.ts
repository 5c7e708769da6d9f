import { LifeboatError } from '../core/errors.ts'
import type { Range } from '../core/range.ts'
import { diffOfDisk } from './changed-since.ts'
import { resolvePoint } from './resolve-point.ts'
import { formatBytes } from './units.ts'
import { verb } from './verb.ts'

export const diffCommand = verb({
  syntax: 'diff <older> <newer>',
  isQuery: true,
  description: 'Show which extents differ between two points of a VM.',
  examples: ['--repo /srv/backup diff web1@latest~1 web1@latest'],
  async run(invocation, [older = '', newer = '']) {
    const { output, signal } = invocation
    await using opened = await invocation.openRepository()
    const { repository } = opened
    const [left, right] = [
      await resolvePoint(repository, older, { signal }),
      await resolvePoint(repository, newer, { signal }),
    ]
    if (left.point.vm !== right.point.vm)
      throw new LifeboatError('usage', `${older} and ${newer} are points of two VMs`, {
        hint: 'Compare two points of one VM.',
      })
    const [before, after] = [
      await repository.manifest(left.point, { signal }),
      await repository.manifest(right.point, { signal }),
    ]
    const names = new Set([...before.disks, ...after.disks].map(({ name }) => name))
    const disks: { name: string; bytesChanged: number; extents: readonly Range[] }[] = []
    for (const name of names) {
      const { extents, bytesChanged } = await diffOfDisk(repository, before, after, name, { signal })
      disks.push({ name, bytesChanged, extents })
    }
    const bytesChanged = disks.reduce((sum, disk) => sum + disk.bytesChanged, 0)
    output.result({ from: before.point, to: after.point, bytesChanged, disks }, () => {
      for (const disk of disks) {
        output.line(`${disk.name}: ${formatBytes(disk.bytesChanged)} in ${disk.extents.length} extents`)
        for (const { offset, length } of disk.extents) output.line(`  ${offset} ${length}`)
      }
    })
    return undefined
  },
})
