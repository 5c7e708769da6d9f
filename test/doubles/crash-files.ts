/** Files that run a hook before and after every change of the disk; a write is cut in two, with the hook between the halves too. */
import type { Files } from '../../src/storage/files.ts'

export function crashFiles(inner: Files, reach: (when: 'before' | 'after') => void): Files {
  const mutation = async <T>(work: () => Promise<T>): Promise<T> => {
    reach('before')
    const result = await work()
    reach('after')
    return result
  }
  return {
    ...inner,
    createForWriting: async (path, mode) => {
      const file = await mutation(() => inner.createForWriting(path, mode))
      return {
        ...file,
        append: async parts => {
          const whole = Buffer.concat(parts)
          const half = Math.floor(whole.length / 2)
          await mutation(() => file.append([whole.subarray(0, half)]))
          await mutation(() => file.append([whole.subarray(half)]))
        },
        sync: () => mutation(() => file.sync()),
      }
    },
    rename: (from, to) => mutation(() => inner.rename(from, to)),
    link: (existing, path) => mutation(() => inner.link(existing, path)),
    unlink: path => mutation(() => inner.unlink(path)),
    makeFolder: (path, mode) => mutation(() => inner.makeFolder(path, mode)),
    syncFolder: path => mutation(() => inner.syncFolder(path)),
  }
}
