import { forEachLimited } from '../core/scope.ts'
import type { Manifest } from '../repository/repository.ts'
import { formatBytes } from './units.ts'
import { verb } from './verb.ts'

export const pointsCommand = verb<{ readonly all?: boolean }>({
  syntax: 'points [vm]',
  description: 'List recovery points.',
  examples: ['--repo /srv/backup points', '--repo /srv/backup points web1 --json'],
  options: command => command.option('--all', 'void and forgotten points too'),
  async run(invocation, [vm], { all }) {
    const { output, signal } = invocation
    await using opened = await invocation.openRepository()
    const { repository } = opened
    const summaries = await repository.points({ vm, all, signal })
    const manifests = new Map<string, Manifest>()
    // A listing over S3 is one GET a point: 16 at a time make it a matter of seconds for thousands.
    await forEachLimited(
      summaries,
      16,
      async (point, inner) => {
        manifests.set(point.id, await repository.manifest(point, { signal: inner }))
      },
      { signal },
    )
    const points = summaries.map(({ id, vm, takenAt, state }) => {
      const manifest = manifests.get(id)
      const disks = manifest?.disks ?? []
      return {
        id,
        vm,
        takenAt,
        kind: manifest?.kind,
        consistency: manifest?.consistency,
        size: disks.reduce((sum, disk) => sum + disk.size, 0),
        bytesStored: disks.reduce((sum, disk) => sum + disk.bytesStored, 0),
        holds: [],
        state,
      }
    })
    output.result({ points }, () =>
      points.length === 0
        ? output.line(vm ? `no points of ${vm}` : 'no points yet: make one with lifeboat backup')
        : output.table(
            [
              { title: 'POINT' },
              { title: 'VM' },
              { title: 'TAKEN AT' },
              { title: 'KIND' },
              { title: 'CONSISTENCY' },
              { title: 'SIZE', align: 'right' },
              { title: 'STORED', align: 'right' },
              ...(all ? [{ title: 'STATE' }] : []),
            ],
            points.map(point => [
              point.id,
              point.vm,
              point.takenAt.toISOString().replace(/\.\d+Z$/, 'Z'),
              point.kind ?? '',
              point.consistency ?? '',
              formatBytes(point.size),
              formatBytes(point.bytesStored),
              ...(all ? [point.state] : []),
            ]),
          ),
    )
    return undefined
  },
})
