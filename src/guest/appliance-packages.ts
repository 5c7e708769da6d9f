/**
 * Debian's packages, fetched as this host's apt is told where from and unpacked without being installed: no root, and nothing of
 * them runs. apt checks their signatures.
 */
import { mkdir, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { mustRun } from '../recovery/external-tool.ts'

/**
 * Fetches `names`, the kernel that the metapackage `kernel` stands for, and all libraries that they depend on, and unpacks them
 * into `folder`/root. Resolves to names with versions, as Debian's file names say them. Throws 'appliance-unavailable' with what is missing here.
 */
export async function unpackPackages(
  request: { readonly folder: string; readonly kernel: string; readonly names: readonly string[] } & AbortOptions,
): Promise<readonly string[]> {
  try {
    return await fetchAndUnpack(request, [])
  } catch (first) {
    request.signal?.throwIfAborted()
    if (isLifeboatError(first, 'tool-missing')) throw unavailable(first)
    // This host's lists of packages are absent, or so old that a file they name is gone. Lists of our own need no root.
    return await withOwnLists(request).catch(() => {
      request.signal?.throwIfAborted()
      throw unavailable(first)
    })
  }
}

async function withOwnLists(request: Parameters<typeof unpackPackages>[0]): Promise<readonly string[]> {
  const lists = path.join(request.folder, 'lists')
  const options = ['-o', `Dir::State::lists=${lists}`]
  await mkdir(path.join(lists, 'partial'), { recursive: true })
  await mustRun('apt-get', ['-q', ...options, ...UNSANDBOXED, 'update'], request)
  return await fetchAndUnpack(request, options)
}

/** apt's own user could not write into our folder. */
const UNSANDBOXED = ['-o', 'APT::Sandbox::User=']

async function fetchAndUnpack(
  { folder, kernel, names, signal }: Parameters<typeof unpackPackages>[0],
  options: readonly string[],
): Promise<readonly string[]> {
  const dependencies = async (wanted: readonly string[]) => {
    const text = await mustRun('apt-cache', [...options, 'depends', ...wanted], { signal })
    return [...text.matchAll(/^\s*\|?(?:Pre)?Depends: ([a-z0-9][a-z0-9.+-]*)$/gm)].map(match => match[1] ?? '')
  }
  const image = (await dependencies([kernel])).find(name => name.startsWith('linux-image'))
  if (image === undefined) throw new LifeboatError('tool-failed', `${kernel} stands for no kernel`)
  const all = new Set(names)
  for (let fresh = [...names]; fresh.length > 0; ) {
    fresh = (await dependencies(fresh)).filter(name => name.startsWith('lib') && !all.has(name))
    for (const name of fresh) all.add(name)
  }
  const packages = path.join(folder, 'packages')
  await rm(packages, { recursive: true, force: true })
  await mkdir(packages, { recursive: true })
  const script = 'cd "$1" && shift && exec apt-get -q "$@"'
  await mustRun('sh', ['-c', script, 'sh', packages, ...options, ...UNSANDBOXED, 'download', image, ...all], { signal })
  return unpack(packages, path.join(folder, 'root'), { signal })
}

async function unpack(packages: string, root: string, { signal }: AbortOptions): Promise<readonly string[]> {
  const files = (await readdir(packages)).filter(name => name.endsWith('.deb')).sort()
  for (const file of files) await mustRun('dpkg-deb', ['-x', path.join(packages, file), root], { signal })
  await rm(packages, { recursive: true })
  return files.map(name => decodeURIComponent(name.replace(/\.deb$/, '')))
}

const unavailable = (cause: unknown): LifeboatError =>
  new LifeboatError('appliance-unavailable', `the appliance could not be built: ${messageOf(cause)}`, {
    cause,
    hint: 'It is made of packages that apt-get and dpkg-deb fetch from Debian once; on a host without a network, copy the folder appliance-* of another host with the same Lifeboat into the cache folder. ext2/3/4, NTFS, FAT and exFAT are read without it.',
  })
