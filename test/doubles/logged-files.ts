/** Files that write down every change of the disk in order, relative to a root; temporary names without their random part. */
import { relative } from 'node:path'
import type { Files } from '../../src/storage/files.ts'

export function loggedFiles(inner: Files, root: string, log: string[]): Files {
  const name = (path: string) => (relative(root, path) || '.').replace(/\.tmp-[0-9a-f]+/, '.tmp')
  const note = async <T>(line: string, work: () => Promise<T>): Promise<T> => {
    const result = await work()
    log.push(line)
    return result
  }
  return {
    ...inner,
    createForWriting: async (path, mode) => {
      const file = await note(`create ${name(path)}`, () => inner.createForWriting(path, mode))
      return {
        ...file,
        append: parts => note(`write ${name(path)}`, () => file.append(parts)),
        sync: () => note(`fsync ${name(path)}`, () => file.sync()),
      }
    },
    rename: (from, to) => note(`rename ${name(from)} ${name(to)}`, () => inner.rename(from, to)),
    link: (existing, path) => note(`link ${name(existing)} ${name(path)}`, () => inner.link(existing, path)),
    unlink: path => note(`unlink ${name(path)}`, () => inner.unlink(path)),
    makeFolder: (path, mode) => note(`mkdir ${name(path)}`, () => inner.makeFolder(path, mode)),
    syncFolder: path => note(`sync ${name(path)}`, () => inner.syncFolder(path)),
  }
}
