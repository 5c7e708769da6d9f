import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { type RestoreResult, restoreDisk } from '../recovery/restore.ts'
import { planRestore } from '../recovery/restore-plan.ts'
import { withHarm } from '../repository/harm.ts'
import { ReadPlan } from '../repository/read-plan.ts'
import type { RecoveryPoint } from '../repository/repository.ts'
import { showEstimate, withMore } from './estimate.ts'
import type { Invocation, OpenedRepository } from './invocation.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { restoreOutputs } from './restore-outputs.ts'
import { pointToRead } from './suspect-points.ts'
import { formatBytes, formatSeconds } from './units.ts'
import { verb } from './verb.ts'

interface Flags {
  readonly output?: string
  readonly format: string
  readonly force?: boolean
  readonly onto?: boolean
  readonly dryRun?: boolean
}

export const restoreCommand = verb<Flags>({
  syntax: 'restore <point>',
  description: 'Restore a disk to a raw or qcow2 file or a block device; or all disks of a point into a folder.',
  examples: [
    '--repo /srv/backup restore web1@latest/vda --output /var/lib/vm/web1.raw',
    '--repo /srv/backup restore web1@latest --output /var/lib/vm/web1/ --format qcow2',
  ],
  options: command =>
    command
      .requiredOption('--output <path>', 'file or block device; without /DISK a folder')
      .option('--format <format>', 'raw or qcow2', 'raw')
      .option('--force', 'replace an existing output')
      .option('--onto', 'write only the chunks that differ into an existing output')
      .option('--dry-run', 'what it would ask of the store, and what that costs; reads tree nodes only'),
  async run(invocation, [text = ''], flags) {
    const { output, signal } = invocation
    const format = flags.format
    if (format !== 'raw' && format !== 'qcow2')
      throw new LifeboatError('usage', `--format ${format} is not known`, { hint: 'raw and qcow2 are' })
    await using opened = await invocation.openRepository({ dryRun: flags.dryRun })
    const { reference, point: summary } = await pointToRead(invocation, opened, text)
    await using point = await opened.repository.openPoint(summary, { pin: 'restore', signal })
    if (!point.pinned)
      output.warning('this host cannot write to the repository: the point is safe for the grace of a running gc only')
    const names = reference.disk === undefined ? point.manifest.disks.map(({ name }) => name) : [reference.disk]
    for (const name of names) point.disk(name)
    if (flags.dryRun) return await estimate(invocation, opened, point, names, flags)
    const outputs = await restoreOutputs({
      output: flags.output ?? '',
      disk: reference.disk,
      names,
      format,
      mayExist: flags.force === true || flags.onto === true,
    })
    const runDir = await mkdtemp(path.join(tmpdir(), 'lifeboat-restore-'))
    try {
      const results: (RestoreResult & { disk: string })[] = []
      for (const disk of names) {
        const target = outputs.ofDisk.get(disk) ?? ''
        results.push({ disk, ...(await restoreOne(invocation, point, disk, target, runDir, { ...flags, format })) })
      }
      printResults(invocation, results)
    } catch (error) {
      await outputs.takeBack()
      throw error
    } finally {
      await rm(runDir, { recursive: true, force: true })
    }
    return undefined
  },
})

/** With --onto, chunks that are there already are not fetched; how many are is not looked for, so that it is a bound. */
async function estimate(
  invocation: Invocation,
  { meter }: OpenedRepository,
  point: RecoveryPoint,
  names: readonly string[],
  { onto = false, format }: Flags,
): Promise<undefined> {
  const plan = new ReadPlan()
  const disks: { name: string; size: number; bytesWritten: number }[] = []
  for (const name of names) {
    const source = point.disk(name)
    disks.push({ name, size: source.size, bytesWritten: await planRestore(source, plan, invocation) })
  }
  const bytesWritten = disks.reduce((sum, disk) => sum + disk.bytesWritten, 0)
  const document = { bytesWritten, bytesFetched: plan.recordBytes, packs: plan.packs, format, disks }
  const requests = withMore(meter.figures(), { get: { requests: plan.gets, bytes: plan.bytes } })
  showEstimate(invocation, { requests, bytesKept: 0, isUpperBound: onto }, document, () => {
    for (const { name, size, bytesWritten: written } of disks)
      invocation.output.line(`${name} (${formatBytes(size)}): ${formatBytes(written)} would be written`)
    invocation.output.line(`${formatBytes(plan.recordBytes)} of records in ${plan.packs} packs`)
  })
  return undefined
}

async function restoreOne(
  invocation: Invocation,
  point: RecoveryPoint,
  disk: string,
  target: string,
  runDir: string,
  flags: { force?: boolean; onto?: boolean; format: 'raw' | 'qcow2' },
): Promise<RestoreResult> {
  const { clock, random } = invocation.surroundings
  const bar = invocation.output.progress()
  try {
    return await restoreDisk(point, disk, {
      output: target,
      format: flags.format,
      force: flags.force,
      onto: flags.onto,
      clock,
      random,
      runDir,
      exporter: nbdExporter(clock, invocation.output),
      progress: ({ done, size }) => bar.update(done, size, disk),
      signal: invocation.signal,
    })
  } catch (error) {
    throw withHarm(error, { point: point.id, disk })
  } finally {
    bar.stop()
  }
}

function printResults({ output }: Invocation, results: readonly (RestoreResult & { disk: string })[]): void {
  const sum = (pick: (result: RestoreResult) => number) => results.reduce((total, result) => total + pick(result), 0)
  const document = {
    bytesWritten: sum(result => result.bytesWritten),
    bytesFetched: sum(result => result.bytesFetched),
    seconds: sum(result => result.seconds),
    disks: results,
  }
  output.result(document, () => {
    for (const { disk, output: file, size, bytesWritten, bytesFetched, seconds } of results)
      output.line(
        `${disk} (${formatBytes(size)}) restored to ${file}: ${formatBytes(bytesWritten)} written, ` +
          `${formatBytes(bytesFetched)} fetched, ${formatSeconds(seconds)}`,
      )
  })
}
