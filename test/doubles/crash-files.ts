/**
 * Files that run a hook before and after every change of the disk; a write is cut in two, with the hook between the halves too.
 * Changes wait for each other, so that the k-th is the same one in each run, and its end is told before the next begins.
 */
import type { Files } from '../../src/storage/files.ts'

export function crashFiles(inner: Files, reach: (when: 'before' | 'after') => void): Files {
  let last: Promise<unknown> = Promise.resolve()
  const mutation = <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.then(async () => {
      reach('before')
      // A folder that is there already fails to be made: that is a place to be killed at as well.
      return await work().finally(() => reach('after'))
    })
    last = result.catch(() => {})
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
