/**
 * Programs of Debian 13 (trixie), whose libnbd and QEMU speak extended headers, in a tree of their own: built once in a minute
 * or two, kept in `.cache/`, some 480 MB. Building and entering it need root, or `sudo -n`.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { cached, sourceOf } from '../guest/recipe-cache.ts'
import { tool } from '../guest/tool.ts'
import { lacking, run, startPeer } from './peer-tools.ts'

const PACKAGES = ['libnbd-bin', 'python3-libnbd', 'qemu-utils']
/** Where the test's folder is seen from inside. */
const INSIDE = '/mnt'

export const trixieLacking: string | false = lacking('mmdebstrap', 'unshare', 'chroot')

export interface Trixie {
  /** The same file as the program sees it. */
  inside(name: string): string
  run(program: string, ...args: readonly string[]): Promise<string>
  /** `socket` is a name in the folder. */
  serve(socket: string, program: string, ...args: readonly string[]): Promise<AsyncDisposable>
}

/** Programs see `folder` and nothing else of this host but its devices. */
export async function trixie(folder: string): Promise<Trixie> {
  const tree = join(await cached('trixie', [sourceOf(import.meta.url)], build), 'root')
  const [command, ...prefix] = [...asRoot, 'unshare', '--mount', 'sh', '-euc', ENTER, 'sh', tree, folder, user()]
  return {
    inside: name => `${INSIDE}/${name}`,
    run: (...words) => run(command!, ...prefix, ...words),
    serve: (socket, ...words) => startPeer(`${INSIDE}/${socket}`, command!, ...prefix, ...words),
  }
}

const asRoot: readonly string[] = process.getuid?.() === 0 ? [] : ['sudo', '-n']
const user = (): string => `${process.getuid?.()}:${process.getgid?.()}`

/** The mounts are this process's own and go with it; each step is an exec, so that a signal meets the program itself. */
const ENTER = `
tree=$1 folder=$2 user=$3
shift 3
mount --bind "$folder" "$tree${INSIDE}"
mount --rbind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
exec chroot --userspec="$user" "$tree" "$@"
`

async function build(folder: string): Promise<void> {
  const root = join(folder, 'root')
  const recipe = [
    ...['--variant=minbase', '--mode=root', `--include=${PACKAGES.join(',')}`],
    '--aptopt=Acquire::Languages "none"',
    ...['doc', 'man', 'locale'].map(name => `--dpkgopt=path-exclude=/usr/share/${name}/*`),
  ]
  const [command, ...args] = [...asRoot, 'mmdebstrap', ...recipe, 'trixie', root]
  await tool(command!, ...args)
  if (!existsSync(join(root, 'usr/bin/nbdinfo'))) throw new Error('the tree lacks nbdinfo')
}
