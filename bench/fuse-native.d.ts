/** What of fuse-native the benchmarks use; it has no types of its own. */
declare module 'fuse-native' {
  type Reply<T> = (errno: number, value?: T) => void

  export interface Stat {
    readonly mtime: Date
    readonly atime: Date
    readonly ctime: Date
    readonly nlink: number
    readonly size: number
    readonly mode: number
    readonly uid: number
    readonly gid: number
  }

  export interface Operations {
    readdir(path: string, reply: Reply<readonly string[]>): void
    getattr(path: string, reply: Reply<Stat>): void
    getxattr?(path: string, name: string, position: number, reply: Reply<Buffer | undefined>): void
    open(path: string, flags: number, reply: Reply<number>): void
    read(path: string, fd: number, target: Buffer, length: number, offset: number, reply: (bytes: number) => void): void
  }

  export default class Fuse {
    static readonly ENOENT: number
    constructor(mountPoint: string, operations: Operations, options?: { readonly kernelCache?: boolean })
    mount(done: (error: Error | null) => void): void
    unmount(done: (error: Error | null) => void): void
  }
}
