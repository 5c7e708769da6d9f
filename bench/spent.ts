/** What a piece of work in this process took: wall time, and CPU of all its threads. */
export interface Spent {
  readonly wallSeconds: number
  readonly cpuSeconds: number
}

export async function spent(work: () => Promise<unknown>): Promise<Spent> {
  const [cpu, started] = [process.cpuUsage(), performance.now()]
  await work()
  const { user, system } = process.cpuUsage(cpu)
  return { wallSeconds: (performance.now() - started) / 1000, cpuSeconds: (user + system) / 1e6 }
}
