import { resolvePoint } from './resolve-point.ts'
import { formatBytes } from './units.ts'
import { verb } from './verb.ts'

export const showCommand = verb({
  syntax: 'show <point>',
  isQuery: true,
  description: 'Show one recovery point.',
  examples: ['--repo /srv/backup show web1@latest'],
  async run(invocation, [text = '']) {
    const { output, signal } = invocation
    await using opened = await invocation.openRepository()
    const { point } = await resolvePoint(opened.repository, text, { signal })
    const manifest = await opened.repository.manifest(point, { signal })
    const { disks, firmwareVariables, point: id, ...rest } = manifest
    const document = {
      id,
      state: point.state,
      ...rest,
      firmwareVariablesBytes: firmwareVariables?.length,
      disks: disks.map(({ top, ...disk }) => ({ ...disk, topBytes: top.length })),
    }
    output.result(document, () => {
      output.line(
        `${manifest.vm}@${id}  ${manifest.takenAt.toISOString()}  ${manifest.kind}, ${manifest.consistency}-consistent`,
      )
      output.line(
        `point ${manifest.sequence} of this VM, taken on ${manifest.host}${point.state === 'committed' ? '' : `, ${point.state}`}`,
      )
      if (manifest.previous) output.line(`the point before it: ${manifest.previous.point}`)
      output.line()
      output.table(
        [
          { title: 'DISK' },
          { title: 'SIZE', align: 'right' },
          { title: 'READ', align: 'right' },
          { title: 'CHANGED', align: 'right' },
          { title: 'STORED', align: 'right' },
          { title: 'BASE' },
          { title: 'READ WHOLE BECAUSE' },
        ],
        disks.map(disk => [
          disk.name,
          ...[disk.size, disk.bytesRead, disk.bytesChanged, disk.bytesStored].map(formatBytes),
          disk.base ?? '',
          disk.reason ?? '',
        ]),
      )
      for (const { name, reason } of manifest.omitted) output.line(`left out: ${name} (${reason})`)
    })
    return undefined
  },
})
