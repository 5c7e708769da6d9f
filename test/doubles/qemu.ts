/**
 * A real QEMU without a guest: machine, devices and block layer are real, the writes of a guest are put into its devices by
 * HMP `qemu-io`. Two QMP sockets: one for what is tested, one for the test. It ends with its scope, and with this process.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { systemClock } from '../../src/core/clock.ts'
import { connectQmp, type QmpClient } from '../../src/hypervisor/qemu/qmp.ts'

export const MiB = 1 << 20
export const KiB = 1 << 10

export interface TestDisk {
  readonly id: string
  readonly format: 'qcow2' | 'raw'
  readonly size: number
}

export interface TestQemu extends AsyncDisposable {
  readonly dir: string
  /** For the code under test. */
  readonly qmp: string
  /** The test's own. */
  readonly control: QmpClient
  readonly process: ChildProcess
  file(disk: string): string
  /** What a guest would write, through the device. Waits until done. */
  write(disk: string, pattern: number, offset: number, length: number): Promise<void>
  flush(disk: string): Promise<void>
  /** What the device must hold after all writes so far: a copy. */
  contents(disk: string): Buffer
  /** Makes the model as large as the disk has become. */
  resized(disk: string, size: number): void
  status(): Promise<string>
  /** 'node-name' -> names of dirty bitmaps. */
  bitmaps(): Promise<Record<string, string[]>>
  /** Names of everything with our prefix but bitmaps: nodes, jobs, exports, objects. Empty when nothing stayed behind. */
  residue(): Promise<string[]>
  quit(): Promise<void>
  kill(): Promise<void>
}

export interface StartOptions {
  readonly disks: readonly TestDisk[]
  /** Reuses a folder of an earlier one, with its images. */
  readonly dir?: string
  /** The guest's processor runs (the BIOS finds nothing to boot and waits). Default: it does not. */
  readonly running?: boolean
  readonly args?: (dir: string) => readonly string[]
}

const devicePath = (id: string) => `/machine/peripheral/${id}/virtio-backend`

/** By folder, so that it goes on after a restart. */
const models = new Map<string, Map<string, Buffer>>()

const started = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of started) child.kill('SIGKILL')
})

export const qemuMissing = (): string | false => {
  try {
    execFileSync('qemu-system-x86_64', ['--version'], { stdio: 'ignore' })
    return false
  } catch {
    return 'qemu-system-x86_64 is not installed'
  }
}

export function createDisk(dir: string, { id, format, size }: TestDisk): string {
  const file = path.join(dir, `${id}.${format}`)
  if (!existsSync(file)) execFileSync('qemu-img', ['create', '-q', '-f', format, file, String(size)])
  return file
}

export async function startQemu({ disks, dir, running = false, args }: StartOptions): Promise<TestQemu> {
  const own = dir ?? (await mkdtemp(path.join(tmpdir(), 'lifeboat-qemu-')))
  const qmp = path.join(own, 'q.sock')
  const test = path.join(own, 't.sock')
  const wiring = disks.flatMap(disk => [
    '-blockdev',
    `driver=${disk.format},node-name=${disk.id}-node,discard=unmap,file.driver=file,file.filename=${createDisk(own, disk)}`,
    '-device',
    `virtio-blk-pci,drive=${disk.id}-node,id=${disk.id}`,
  ])
  const socket = (at: string) => ['-qmp', `unix:${at},server=on,wait=off`]
  const machine = [
    '-accel',
    'tcg',
    '-machine',
    'pc',
    '-m',
    '64',
    '-nodefaults',
    '-display',
    'none',
    '-name',
    'testling',
  ]
  const child = spawn(
    'qemu-system-x86_64',
    [...machine, ...(running ? [] : ['-S']), ...socket(qmp), ...socket(test), ...wiring, ...(args?.(own) ?? [])],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  )
  started.add(child)
  const gone = once(child, 'exit').then(() => started.delete(child))
  const control = await connectSoon(test, child)

  const io = async (disk: string, command: string) =>
    String(
      await control.execute('human-monitor-command', { 'command-line': `qemu-io -d ${devicePath(disk)} "${command}"` }),
    )
  const model = models.get(own) ?? new Map<string, Buffer>()
  models.set(own, model)
  for (const { id, size } of disks) if (!model.has(id)) model.set(id, Buffer.alloc(size))
  const list = async (command: string) => (await control.execute(command)) as Record<string, unknown>[]

  return {
    dir: own,
    qmp,
    control,
    process: child,
    file: id => path.join(own, `${id}.${disks.find(disk => disk.id === id)?.format}`),
    async write(disk, pattern, offset, length) {
      const said = await io(disk, `write -P ${pattern} ${offset} ${length}`)
      if (/fail|error/i.test(said)) throw new Error(said)
      model.get(disk)?.fill(pattern, offset, offset + length)
    },
    async flush(disk) {
      await io(disk, 'flush')
    },
    contents: disk => Buffer.from(model.get(disk) ?? []),
    resized: (disk, size) => void model.set(disk, Buffer.concat([model.get(disk) ?? Buffer.alloc(0)], size)),
    async status() {
      return String(((await control.execute('query-status')) as { status: string }).status)
    },
    async bitmaps() {
      const found: Record<string, string[]> = {}
      for (const node of await list('query-named-block-nodes')) {
        const names = ((node['dirty-bitmaps'] ?? []) as { name?: string }[]).flatMap(({ name }) => name ?? [])
        if (names.length > 0) found[String(node['node-name'])] = names
      }
      return found
    },
    async residue() {
      const objects = (await control.execute('qom-list', { path: '/objects' })) as { name: string }[]
      const names = [
        ...(await list('query-named-block-nodes')).map(node => node['node-name']),
        ...(await list('query-block-jobs')).map(job => job.device),
        ...(await list('query-block-exports')).map(entry => entry.id),
        ...objects.map(({ name }) => name),
      ]
      return names.map(String).filter(name => name.startsWith('lifeboat-'))
    },
    async quit() {
      await control.execute('quit').catch(() => undefined)
      await gone
    },
    async kill() {
      child.kill('SIGKILL')
      await gone
    },
    async [Symbol.asyncDispose]() {
      await control[Symbol.asyncDispose]()
      child.kill('SIGKILL')
      await gone
      if (dir === undefined) await rm(own, { recursive: true, force: true })
    },
  }
}

async function connectSoon(socket: string, child: ChildProcess): Promise<QmpClient> {
  for (let attempt = 0; ; attempt++)
    try {
      return await connectQmp({ socket, clock: systemClock })
    } catch (error) {
      if (attempt > 600 || child.exitCode !== null) throw error
      await systemClock.sleep(50)
    }
}
