/** NBD servers as processes of their own: the product's `export` and its peers, each publishing the same image on a Unix socket. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { systemClock } from '../src/core/clock.ts'
import { LIFEBOAT } from './installed.ts'
import { run } from './tools.ts'

export interface NbdServerProcess extends AsyncDisposable {
  readonly name: string
  readonly uri: string
  readonly pid: number
  /** CPU of the process so far, seconds in ticks of 10 ms. */
  cpuSeconds(): Promise<number>
  /** Its largest resident size so far. */
  peakMiB(): Promise<number>
}

export const lifeboatExport = (dir: string, point: string, cacheSize: string, environment: Record<string, string>) => {
  const socket = path.join(dir, 'lifeboat.sock')
  const argv = [LIFEBOAT, 'export', point, '--socket', socket, '--cache-size', cacheSize]
  return start('lifeboat export', socket, process.execPath, argv, environment)
}

/** The image is copied into the plugin's memory before this resolves. */
export async function nbdkitMemory(dir: string, image: string, size: number): Promise<NbdServerProcess> {
  const socket = path.join(dir, 'nbdkit.sock')
  const server = await start('nbdkit memory', socket, 'nbdkit', ['-f', '-U', socket, 'memory', String(size)])
  await run('nbdcopy', [image, server.uri])
  return server
}

/** An uncompressed qcow2 of the image, in the page cache. */
export async function qemuNbdQcow2(dir: string, image: string): Promise<NbdServerProcess> {
  const [socket, file] = [path.join(dir, 'qemu.sock'), path.join(dir, 'peer.qcow2')]
  await run('qemu-img', ['convert', '-O', 'qcow2', image, file])
  const argv = ['-t', '-e', '8', '-r', '-k', socket, '-f', 'qcow2', '--cache=writeback', file]
  return start('qemu-nbd qcow2', socket, 'qemu-nbd', argv)
}

/** A raw file whose writes go to an overlay beside it. */
export const lifeboatFile = (dir: string, image: string) => {
  const socket = path.join(dir, 'overlay.sock')
  const argv = [LIFEBOAT, 'export', '--file', image, '--writable', '--overlay', '--socket', socket]
  return start('export --overlay', socket, process.execPath, argv)
}

/** An empty file, new for each call. */
export async function nbdkitFile(dir: string, size: number): Promise<NbdServerProcess> {
  const [socket, file] = [path.join(dir, 'nbdkit-file.sock'), path.join(dir, 'nbdkit.raw')]
  await rm(file, { force: true })
  await rm(socket, { force: true })
  await run('truncate', ['-s', String(size), file])
  return start('nbdkit file', socket, 'nbdkit', ['-f', '-U', socket, 'file', file])
}

/** An empty qcow2, new for each call. */
export async function qemuNbdFresh(dir: string, size: number): Promise<NbdServerProcess> {
  const [socket, file] = [path.join(dir, 'qemu-fresh.sock'), path.join(dir, 'fresh.qcow2')]
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(size)])
  const argv = ['-t', '-e', '8', '-k', socket, '-f', 'qcow2', '--cache=writeback', file]
  return start('qemu-nbd qcow2', socket, 'qemu-nbd', argv)
}

/** Any program that serves one export on `socket`; ready when it answers a client. */
export async function start(
  name: string,
  socket: string,
  program: string,
  argv: readonly string[],
  environment: Record<string, string> = {},
): Promise<NbdServerProcess> {
  const child = spawn(program, argv, {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, ...environment },
  })
  const { pid = 0 } = child
  const uri = `nbd+unix:///?socket=${socket}`
  await answers(child, name, uri)
  return {
    name,
    uri,
    pid,
    async cpuSeconds() {
      const text = await readFile(`/proc/${pid}/stat`, 'utf8')
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
      return (Number(fields[11]) + Number(fields[12])) / 100
    },
    async peakMiB() {
      const peak = /VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => ''))?.[1]
      // A process that has ended has no memory to tell of.
      if (peak === undefined) throw new Error(`${name} has ended: ${child.signalCode ?? child.exitCode ?? 'just now'}`)
      return Number(peak) / 1024
    },
    [Symbol.asyncDispose]: () => stop(child),
  }
}

async function answers(child: ChildProcess, name: string, uri: string): Promise<void> {
  for (let tries = 0; tries < 300; tries++) {
    if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}`)
    const size = await run('nbdinfo', ['--size', uri]).catch(() => undefined)
    if (size) return
    await systemClock.sleep(100)
  }
  await stop(child)
  throw new Error(`${name} does not answer at ${uri}`)
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = new Promise(resolve => child.once('close', resolve))
  child.kill('SIGTERM')
  await ended
}
