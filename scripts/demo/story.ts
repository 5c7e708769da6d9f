/** The main job on real input: a VM is backed up while it runs, twice, and both points boot straight from the repository. */

import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { connectConsole, type GuestConsole } from '../../test/guest/console.ts'
import { dataDisk } from '../../test/guest/data-disk.ts'
import { debianImage } from '../../test/guest/debian-image.ts'
import { adoptOwned, type OwnedProcess } from '../../test/guest/process-record.ts'
import { tinyImage } from '../../test/guest/tiny-image.ts'
import { copyImage, tool } from '../../test/guest/tool.ts'
import { startVm } from '../../test/guest/vm.ts'
import { fileThroughMount } from './file-through-mount.ts'
import {
  type Checksums,
  changeFiles,
  checksums,
  endWritesToData,
  heartbeats,
  keepWriting,
  sameChecksums,
} from './guest.ts'
import { lifeAfterRecovery } from './life-after-recovery.ts'
import { type Json, lifeboatCommand, listOf, numberOf, textOf } from './lifeboat-command.ts'
import { mebibytes, type Narration, seconds } from './narration.ts'

export interface StoryOptions {
  readonly folder: string
  readonly debian: boolean
  readonly narration: Narration
}

interface Boot {
  readonly point: string
  readonly secondsToPrompt: number
  readonly bytesFetched: number
  readonly sums: Checksums
}

const VM = 'demo'

/** Resolves to what differed: nothing, when all is well. */
export async function tellStory({ folder, debian, narration }: StoryOptions): Promise<readonly string[]> {
  const { step } = narration
  const differences: string[] = []
  const at = (name: string): string => join(folder, name)
  const lifeboat = lifeboatCommand(
    {
      LIFEBOAT_REPO: at('repository'),
      LIFEBOAT_KEY_FILE: at('repository.key'),
      LIFEBOAT_STATE_DIR: at('state'),
      LIFEBOAT_CACHE_DIR: at('cache'),
    },
    narration.command,
  )

  step(
    debian
      ? 'building the Debian guest (a few minutes the first time, then it is kept)'
      : 'building a small Linux VM (kept for the next time)',
  )
  const image = debian ? await debianImage() : await tinyImage()
  await copyImage(image.disk, at('system.raw'))
  await copyImage(await dataDisk(), at('data.qcow2'))

  step('starting it: a system disk with its own boot loader, and a data disk with files')
  const vm = await startVm({
    disks: [
      { name: 'vda', path: at('system.raw'), format: 'raw' },
      { name: 'vdb', path: at('data.qcow2'), format: 'qcow2' },
    ],
    memoryMiB: debian ? 512 : 256,
    agent: debian,
    bootTimeoutMs: image.bootTimeoutMs,
  })
  const points: Json[] = []
  let older: Checksums
  let newer: Checksums
  try {
    await vm.waitForPrompt()
    await keepWriting(vm)
    await vm.must('sync')
    older = await checksums(vm)
    step('the guest is up, has checksummed its files, and keeps writing')

    await lifeboat.run('init', '--key-file', at('repository.key'))
    const backup = ['backup', VM, '--qmp', vm.qmp, ...(debian ? ['--guest-agent', vm.agent] : [])]
    points.push(await lifeboat.run(...backup))
    step(describe(points[0]))

    await changeFiles(vm)
    await endWritesToData(vm)
    newer = await checksums(vm)
    step('the guest has changed, added and deleted files on both disks')
    points.push(await lifeboat.run(...backup))
    step(describe(points[1]))
    await vm.poweroff()
  } finally {
    await vm[Symbol.asyncDispose]()
  }
  await lifeboat.run('points', VM)
  step('the first VM is off; from now on there is only the repository')

  const boots: Boot[] = []
  let lives: readonly (readonly string[])[] | undefined
  for (const [index, expected] of [older, newer].entries()) {
    const name = index === 0 ? 'older' : 'newer'
    const goOn = index === 0 ? undefined : lifeAfter
    const boot = await bootFrom(`${VM}@${textOf(points[index] ?? {}, 'point')}`, name, goOn)
    const same = sameChecksums(boot.sums, expected)
    step(`the ${name} point runs: ${same ? 'its files are the ones that the first guest had' : 'ITS FILES DIFFER'}`)
    if (!same)
      differences.push(`${name} point: expected ${JSON.stringify(expected)}, found ${JSON.stringify(boot.sums)}`)
    boots.push(boot)
  }

  await lifeboat.run('restore', `${VM}@${textOf(points[1] ?? {}, 'point')}/vdb`, '--output', at('vdb.raw'))
  const compared = await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', at('vdb.raw'), at('data.qcow2')).catch(
    String,
  )
  const identical = compared.includes('Images are identical')
  step(identical ? 'the restored data disk is the same, bit by bit' : 'THE RESTORED DATA DISK DIFFERS')
  if (!identical) differences.push(`restored vdb: ${compared}`)

  const differs = await fileThroughMount({
    lifeboat,
    point: textOf(points[1] ?? {}, 'point'),
    digest: newer.letter,
    at,
    step,
  })
  if (differs) differences.push(differs)

  const size = sum(listOf(points[0] ?? {}, 'disks'), 'size')
  if (lives) narration.table('The recovered VM, while it ran', ['step', 'took', 'moved'], lives)
  narration.table(
    'Recovery points',
    ['point', 'kind', 'consistency', 'disks', 'read', 'changed', 'stored', 'seconds'],
    points.map(point => [
      textOf(point, 'point'),
      textOf(point, 'kind'),
      textOf(point, 'consistency'),
      mebibytes(size),
      ...['bytesRead', 'bytesChanged', 'bytesStored'].map(field => mebibytes(sum(listOf(point, 'disks'), field))),
      seconds(numberOf(point, 'seconds')),
    ]),
  )
  narration.table(
    'Booted straight from the repository',
    ['point', 'boot to prompt', 'fetched', 'of the disks'],
    boots.map(({ point, secondsToPrompt, bytesFetched }) => [
      point,
      seconds(secondsToPrompt),
      mebibytes(bytesFetched),
      `${((100 * bytesFetched) / size).toFixed(1)} %`,
    ]),
  )
  return differences

  async function bootFrom(point: string, session: string, goOn?: typeof lifeAfter): Promise<Boot> {
    const start = performance.now()
    const booted = await lifeboat.start('boot', point, '--session', session)
    const qemuEnded = adoptOwned(numberOf(booted.answer, 'pid'))
    try {
      using guest = await connectConsole(textOf(booted.answer, 'serial'))
      await guest.waitForPrompt(image.bootTimeoutMs)
      const secondsToPrompt = (performance.now() - start) / 1000
      const bytesFetched = await fetchedBy(session)
      const sums = await checksums(guest)
      step(`  ${await heartbeats(guest)} of its heartbeats had reached the disk at that instant`)
      await goOn?.(session, guest, booted.process, sums)
      guest.askToPowerOff()
      await qemuEnded
      await booted.process.ended
      return { point, secondsToPrompt, bytesFetched, sums }
    } catch (error) {
      throw new Error(`${error instanceof Error ? error.message : error}\nlifeboat said: ${booted.process.log()}`, {
        cause: error,
      })
    } finally {
      booted.process.child.kill('SIGTERM')
      await booted.process.ended
      await lifeboat.run('session', 'discard', session)
    }
  }

  async function lifeAfter(
    session: string,
    guest: GuestConsole,
    server: OwnedProcess,
    before: Checksums,
  ): Promise<void> {
    const { steps, sums, differs } = await lifeAfterRecovery({
      ...{ lifeboat, guest, server, session, step },
      targets: { vda: at('production-vda.raw'), vdb: at('production-vdb.qcow2') },
    })
    lives = steps
    if (differs) differences.push(`after the move: ${JSON.stringify(sums)}`)
    if (sameChecksums(sums, before)) differences.push('the recovered guest wrote, and its files are what they were')
  }

  async function fetchedBy(session: string): Promise<number> {
    // A running session writes its figures down every two seconds.
    await setTimeout(2500)
    const shown = await lifeboat.run('session', 'show', session)
    return sum(listOf(shown, 'sessions'), 'bytesFetched')
  }
}

function describe(point: Json | undefined): string {
  const disks = listOf(point ?? {}, 'disks')
  const [read, stored] = ['bytesRead', 'bytesStored'].map(field => mebibytes(sum(disks, field)))
  return `${textOf(point ?? {}, 'kind')} recovery point of the running VM: ${read} read, ${stored} stored`
}

const sum = (rows: readonly Json[], field: string): number =>
  rows.reduce((total, row) => total + numberOf(row, field), 0)
