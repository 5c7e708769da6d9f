/** Buffers for reads under way: as many as there are, so many reads run, whoever they are for. */

export interface ReadBuffers {
  /** The buffer is `work`'s until it settles. */
  use<T>(work: (buffer: Buffer) => Promise<T>): Promise<T>
}

export function readBuffers(count: number, size: number): ReadBuffers {
  const free: Buffer[] = []
  const waiting: (() => void)[] = []
  let made = 0
  const take = async (): Promise<Buffer> => {
    while (free.length === 0 && made >= count) await new Promise<void>(resolve => waiting.push(resolve))
    const buffer = free.pop()
    if (buffer !== undefined) return buffer
    made += 1
    return Buffer.allocUnsafeSlow(size)
  }
  return {
    async use(work) {
      const buffer = await take()
      try {
        return await work(buffer)
      } finally {
        free.push(buffer)
        waiting.shift()?.()
      }
    },
  }
}
