/**
 * Mutual exclusion of the processes of one host, for moments: an abstract Unix socket, which the kernel gives to one and takes
 * away with its process, so that nothing stale can stay behind. For long, with a name that a person may read: run-lock.ts.
 */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'

/** Runs `work` while no other `work` of that name runs on this host. */
export async function oneAtATime<T>(name: string, work: () => Promise<T>): Promise<T> {
  const path = `\0lifeboat/${name}`
  const waiting = new Set<Socket>()
  const server = createServer(socket => {
    waiting.add(socket)
    socket.on('error', () => {})
  })
  while (!(await isBound(server, path))) await untilFree(path)
  try {
    return await work()
  } finally {
    for (const socket of waiting) socket.destroy()
    await server[Symbol.asyncDispose]()
  }
}

async function isBound(server: ReturnType<typeof createServer>, path: string): Promise<boolean> {
  try {
    server.listen({ path })
    await once(server, 'listening')
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EADDRINUSE') return false
    throw error
  }
}

/** The one who has it lets its connections go when it is done, or dead. */
const untilFree = (path: string): Promise<void> =>
  new Promise(resolve => {
    const socket = connect({ path })
    socket.on('error', () => {})
    socket.on('close', () => resolve())
  })
