/** Who keeps a mount busy: the processes of this host that have a file or their folder in it, by the names of their descriptors. */
import { readdir, readFile, readlink } from 'node:fs/promises'
import { forEachLimited } from '../core/scope.ts'

/** 'bash (1234)'; those of other users are seen by root alone. */
export async function mountUsers(mountPoint: string): Promise<readonly string[]> {
  const users: string[] = []
  const processes = (await readdir('/proc')).filter(name => /^\d+$/.test(name) && Number(name) !== process.pid)
  await forEachLimited(processes, 8, async id => {
    if (!(await isUser(`/proc/${id}`, mountPoint))) return
    const name = await readFile(`/proc/${id}/comm`, 'utf8').catch(() => '?')
    users.push(`${name.trim()} (${id})`)
  })
  return users
}

/** The link itself is read, and not what it leads to. */
async function isUser(folder: string, mountPoint: string): Promise<boolean> {
  const descriptors = await readdir(`${folder}/fd`).catch(() => [])
  for (const link of ['cwd', 'root', ...descriptors.map(name => `fd/${name}`)]) {
    const target = await readlink(`${folder}/${link}`).catch(() => '')
    if (target === mountPoint || target.startsWith(`${mountPoint}/`)) return true
  }
  return false
}
