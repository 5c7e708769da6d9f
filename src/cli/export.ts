import { fileDevice } from '../block/file.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { exportPoint } from '../recovery/export.ts'
import type { Exporter, ListenAddress } from '../recovery/exporter.ts'
import { olderPoints } from './changed-since.ts'
import { type LimitFlags, limitOptions, limitWordsOf, serverLimits } from './export-limits.ts'
import { type ListenFlags, listenAt, securityOf } from './export-listen.ts'
import { overlaidFile } from './export-overlay.ts'
import { type ExportSessionFlags, serveExportSession } from './export-session.ts'
import { type HydrateFlags, hydrateOptions } from './hydrate.ts'
import type { Invocation } from './invocation.ts'
import { type LiveReadFlags, liveReadOptions, openForLiveReads } from './live-reads.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { pointToRead } from './suspect-points.ts'
import { verb } from './verb.ts'

interface Flags extends ListenFlags, LiveReadFlags, LimitFlags, HydrateFlags {
  readonly session?: string
  readonly file?: string
  readonly writable?: boolean
  readonly overlay?: boolean
}

export const exportCommand = verb<Flags>({
  syntax: 'export [point]',
  isServer: true,
  description: 'Serve the disks of a point over NBD until SIGTERM; with --file a plain raw file, for diagnostics.',
  examples: [
    '--repo /srv/backup export web1@latest --socket /run/web1.nbd',
    '--repo /srv/backup export web1@latest --listen 0.0.0.0:10809 --tls /etc/lifeboat/tls --tls-verify',
    '--repo /srv/backup export web1@latest --session test --socket /run/web1.nbd --writable --hydrate',
    '--repo /srv/backup export web1@latest --listen 0.0.0.0:10809 --insecure --max-connections 8 --idle-timeout 1h',
    'export --file disk.raw --socket /run/disk.nbd --writable',
  ],
  options: command =>
    hydrateOptions(limitOptions(liveReadOptions(command)))
      .option('--socket <path>', 'Unix socket to listen on')
      .option('--listen <host:port>', 'TCP address to listen on; needs --tls or --insecure')
      .option(
        '--tls <folder>',
        "serve inside TLS only, with this folder's server-cert.pem and server-key.pem, or keys.psk",
      )
      .option(
        '--tls-verify',
        'let in clients with a certificate of its ca-cert.pem only; permissions.json says for what',
      )
      .option('--insecure', 'serve without TLS: everybody who reaches the port reads the disks')
      .option('--file <path>', 'serve this raw file instead of a point')
      .option('--overlay', 'leave the --file as it is: what clients write goes to the folder PATH.overlay')
      .option('--session <name>', 'keep it: pinned, and served again by `session resume`; one of that name goes on')
      .option('--writable', 'let clients write: to the --file, or to the overlays of the --session'),
  async run(invocation, [text], flags) {
    const { output, surroundings } = invocation
    if ((text === undefined) === (flags.file === undefined))
      throw new LifeboatError('usage', 'what to serve is missing, or named twice', {
        hint: 'name a point (VM@latest), or a raw file with --file',
      })
    if (flags.overlay && (flags.file === undefined || !flags.writable))
      throw new LifeboatError('usage', '--overlay goes with --file and --writable', {
        hint: 'say --file PATH --writable --overlay; writes over a point are kept by --session NAME --writable',
      })
    if (flags.session !== undefined) return await serveSession(invocation, text, { ...flags, session: flags.session })
    if (flags.hydrate || flags.hydrateRate !== undefined)
      throw new LifeboatError('usage', '--hydrate goes with --session, which keeps what is copied', {
        hint: 'name a session: --session NAME',
      })
    if (flags.writable && flags.file === undefined)
      throw new LifeboatError('usage', '--writable goes with --session, which keeps what is written, or with --file', {
        hint: 'name a session: --session NAME',
      })
    const listen = listenAt(flags, surroundings.environment)
    const security = await securityOf(flags, surroundings.clock.now())
    const limits = serverLimits(limitWordsOf(flags))
    const serving: Serving = { listen, exporter: nbdExporter(surroundings.clock, output, security, limits) }
    if (flags.file !== undefined) await serveFile(invocation, flags.file, serving, flags)
    else await servePoint(invocation, text ?? '', serving, flags)
    return undefined
  },
})

async function serveSession(invocation: Invocation, text: string | undefined, flags: ExportSessionFlags & Flags) {
  if (text === undefined)
    throw new LifeboatError('usage', '--session goes with a point, not with --file', {
      hint: 'name a point: VM@latest',
    })
  await using opened = await openForLiveReads(invocation, flags)
  const { reference, point, older } = await pointToRead(invocation, opened, text)
  const disks = reference.disk === undefined ? undefined : [reference.disk]
  return await serveExportSession(invocation, opened, { point, older, disks }, flags)
}

interface Serving {
  readonly listen: ListenAddress
  readonly exporter: Exporter
}

async function servePoint(invocation: Invocation, text: string, serving: Serving, flags: Flags): Promise<void> {
  const { output, signal } = invocation
  await using opened = await openForLiveReads(invocation, flags)
  const { reference, point, older } = await pointToRead(invocation, opened, text)
  await using running = await exportPoint({
    repository: opened.repository,
    point,
    disks: reference.disk === undefined ? undefined : [reference.disk],
    ...serving,
    cache: opened.cache,
    older: olderPoints(opened.repository, point.vm, older),
    signal,
  })
  if (!running.point.pinned)
    output.warning('this host cannot write to the repository: the point is safe for the grace of a running gc only')
  await serveUntilStopped(invocation, running.uris)
}

async function serveFile(invocation: Invocation, file: string, serving: Serving, flags: Flags): Promise<void> {
  const { output, signal } = invocation
  const readOnly = flags.writable !== true
  await using device = await fileDevice(file, { readOnly: readOnly || flags.overlay === true })
  await using overlaid = flags.overlay ? await overlaidFile(file, device, serving.listen, output) : undefined
  const exports = [overlaid?.exported ?? { name: 'file', device, readOnly, fastZero: device.zeroesFast }]
  await using running = await serving.exporter({ exports, listen: serving.listen, signal })
  await serveUntilStopped(invocation, running.uris)
}

/** A server that was told to stop has done its work: exit code 0. */
export async function serveUntilStopped({ output, signal }: Invocation, uris: readonly string[]): Promise<void> {
  output.result({ uris }, () => {
    for (const uri of uris) output.line(uri)
  })
  const stopped = new Promise<void>(resolve => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
  // Nothing else keeps the process alive should the server's last handle be closed by a fault.
  const alive = setInterval(() => {}, 1 << 30)
  await stopped
  clearInterval(alive)
  if (!isLifeboatError(signal.reason, 'interrupted')) throw signal.reason
}
