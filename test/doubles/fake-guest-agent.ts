/** A guest agent on a Unix socket with a frozen flag, and with the bad habits that a test gives it. */
import { createServer } from 'node:net'

export interface FakeAgentHabits {
  /** Commands that are answered with an error. */
  readonly refuses?: readonly string[]
  /** Commands that are carried out and never answered. */
  readonly hangsAt?: readonly string[]
  /** So many thaws fail before one works. */
  readonly failingThaws?: number
  /** Half a line that an earlier client left in the channel. */
  readonly stale?: string
  readonly windows?: boolean
}

export interface FakeGuestAgent extends AsyncDisposable {
  readonly socket: string
  readonly frozen: () => boolean
  readonly freezes: () => number
}

export async function startFakeGuestAgent(socket: string, habits: FakeAgentHabits = {}): Promise<FakeGuestAgent> {
  let frozen = false
  let freezes = 0
  let failingThaws = habits.failingThaws ?? 0

  const carryOut = (command: string): unknown => {
    switch (command) {
      case 'guest-fsfreeze-freeze':
        frozen = true
        freezes++
        return { return: 2 }
      case 'guest-fsfreeze-thaw':
        if (failingThaws-- > 0) return { error: { class: 'GenericError', desc: 'thaw failed' } }
        frozen = false
        return { return: 2 }
      case 'guest-fsfreeze-status':
        return { return: frozen ? 'frozen' : 'thawed' }
      case 'guest-get-osinfo':
        return { return: { id: habits.windows ? 'mswindows' : 'debian' } }
      default:
        return { error: { class: 'CommandNotFound', desc: command } }
    }
  }

  const server = createServer(connection => {
    connection.on('error', () => {})
    if (habits.stale) connection.write(habits.stale)
    let text = ''
    connection.on('data', data => {
      text += data.toString('latin1').replaceAll('\xff', '')
      const lines = text.split('\n')
      text = lines.pop() ?? ''
      for (const line of lines) {
        const { execute, arguments: given } = JSON.parse(line)
        if (execute === 'guest-sync-delimited') {
          if (habits.hangsAt?.includes(execute)) continue
          connection.write(Buffer.concat([Buffer.of(0xff), Buffer.from(`${JSON.stringify({ return: given.id })}\n`)]))
          continue
        }
        const refused = habits.refuses?.includes(execute)
        const answer = refused ? { error: { class: 'GenericError', desc: 'not now' } } : carryOut(execute)
        if (!habits.hangsAt?.includes(execute)) connection.write(`${JSON.stringify(answer)}\n`)
      }
    })
  })
  const connections = new Set<import('node:net').Socket>()
  server.on('connection', connection => {
    connections.add(connection)
    connection.on('close', () => connections.delete(connection))
  })
  await new Promise<void>(resolve => server.listen(socket, resolve))
  return {
    socket,
    frozen: () => frozen,
    freezes: () => freezes,
    async [Symbol.asyncDispose]() {
      for (const connection of connections) connection.destroy()
      await new Promise(resolve => server.close(resolve))
    },
  }
}
