/** Debian's cloud kernel, unpacked without being installed: 14 MB with ext4 and nvme built in, virtio as modules. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { cached, sourceOf } from './recipe-cache.ts'
import { shell, tool } from './tool.ts'

export interface Kernel {
  /** The release, as `uname -r` says it. */
  readonly release: string
  readonly image: string
  /** The folder that holds lib/modules/. */
  readonly root: string
}

export async function kernel(): Promise<Kernel> {
  const root = await cached('kernel', [sourceOf(import.meta.url)], fetchKernel)
  const release = readdirSync(join(root, 'lib/modules'))[0]
  if (release === undefined) throw new Error(`${root} holds no kernel modules`)
  return { release, root, image: join(root, 'boot', `vmlinuz-${release}`) }
}

async function fetchKernel(folder: string): Promise<void> {
  await download(folder)
  await shell('cd "$1"; dpkg-deb -x ./*.deb .; rm -rf ./*.deb lists usr; depmod -b . "$(ls lib/modules)"', folder)
}

/**
 * The machine's own package lists may be absent or so old that the file they name is gone; then lists of our own are
 * fetched, which needs no root and leaves the machine's as they are.
 */
async function download(folder: string): Promise<void> {
  try {
    await shell(DOWNLOAD, folder)
  } catch {
    await shell(
      `mkdir -p "$1/lists/partial"; apt-get -q -o Dir::State::lists="$1/lists" -o APT::Sandbox::User= update`,
      folder,
    )
    await shell(DOWNLOAD, folder, '-o', `Dir::State::lists=${folder}/lists`)
  }
}

const DOWNLOAD = `
cd "$1"; shift
package=$(apt-cache "$@" depends linux-image-cloud-amd64 | awk '/Depends: linux-image/{print $2; exit}')
[ -n "$package" ]
apt-get -q "$@" -o APT::Sandbox::User= download "$package"
`

/** The files of modules and of what they need, in the order in which they must be loaded. */
export async function modulesInOrder({ root, release }: Kernel, names: readonly string[]): Promise<readonly string[]> {
  const files: string[] = []
  for (const name of names) {
    const lines = await tool('modprobe', '-d', root, '-S', release, '--show-depends', name)
    for (const line of lines.split('\n')) {
      const [verb, file] = line.trim().split(/\s+/)
      if (verb === 'insmod' && file !== undefined && !files.includes(file)) files.push(file)
    }
  }
  return files
}
