import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { connectQmp, isQmpError } from '../../../src/hypervisor/qemu/qmp.ts'

let dir: string
before(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-qmp-'))
})
after(() => rm(dir, { recursive: true, force: true }))

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\r\n'

interface FakeQmp extends AsyncDisposable {
  readonly socket: string
  say(text: string): void
  hangUp(): void
}

let number = 0
/** Answers by `reply`; `undefined` is silence. */
async function fakeQmp(
  reply: (command: string, id: number) => string | undefined,
  greeting = GREETING,
): Promise<FakeQmp> {
  const socket = path.join(dir, `${number++}`)
  const clients = new Set<Socket>()
  const server = createServer(client => {
    clients.add(client)
    client.on('error', () => {})
    client.write(greeting)
    client.on('data', data => {
      for (const line of data.toString().split('\n').filter(Boolean)) {
        const { execute, id } = JSON.parse(line)
        const answer = execute === 'qmp_capabilities' ? '{"return": {}}' : reply(execute, id)
        if (answer !== undefined) client.write(`${answer.replace('{', `{"id": ${id}, `)}\n`)
      }
    })
  })
  await new Promise<void>(resolve => server.listen(socket, resolve))
  return {
    socket,
    say: text => clients.forEach(client => void client.write(text)),
    hangUp: () => clients.forEach(client => void client.destroy()),
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.destroy()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

const connect = (socket: string, greetingTimeoutMs?: number) =>
  connectQmp({ socket, clock: systemClock, greetingTimeoutMs })

test('replies find their commands whatever their order, and QEMU says which version it is', async () => {
  const held: (() => void)[] = []
  await using fake: FakeQmp = await fakeQmp((command, id) => {
    if (command === 'first') held.push(() => fake.say(`{"id": ${id}, "return": 1}\n`))
    return command === 'second' ? '{"return": 2}' : undefined
  })
  await using qmp = await connect(fake.socket)
  const first = qmp.execute('first')
  assert.equal(await qmp.execute('second'), 2)
  held[0]?.()
  assert.equal(await first, 1)
  assert.deepEqual(qmp.version, { major: 7, minor: 2, micro: 22 })
})

test("QEMU's error keeps its class and the command", async () => {
  await using fake = await fakeQmp(() => '{"error": {"class": "DeviceNotFound", "desc": "no such thing"}}')
  await using qmp = await connect(fake.socket)
  await assert.rejects(
    qmp.execute('blockdev-del'),
    error =>
      isQmpError(error, 'DeviceNotFound') &&
      error.details.command === 'blockdev-del' &&
      /no such thing/.test(error.message),
  )
})

test('absent, refused and silent sockets are told apart', async () => {
  const unreachable = (what: RegExp) => (error: unknown) =>
    isLifeboatError(error, 'qmp-unreachable') && what.test(error.message) && error.details.hint !== undefined
  await assert.rejects(connect(path.join(dir, 'absent')), unreachable(/ENOENT/))
  const file = path.join(dir, 'file')
  await writeFile(file, '')
  await assert.rejects(connect(file), unreachable(/ECONNREFUSED/))
  await using silent = await fakeQmp(() => undefined, '')
  await assert.rejects(connect(silent.socket, 200), unreachable(/another QMP client/))
})

test('a socket that closes in mid command is guest-gone, for every waiter and for ever', async () => {
  await using fake = await fakeQmp(() => undefined)
  await using qmp = await connect(fake.socket)
  const told: unknown[] = []
  qmp.onClosed(error => told.push(error))
  const gone = (error: unknown) => isLifeboatError(error, 'guest-gone')
  const waiting = [
    assert.rejects(qmp.execute('query-block'), gone),
    assert.rejects(
      qmp.until(
        () => true,
        async () => {},
      ),
      gone,
    ),
  ]
  fake.hangUp()
  await Promise.all(waiting)
  await assert.rejects(qmp.execute('query-block'), gone)
  assert.equal(told.length, 1)
})

test('an event that comes before the reply is not missed; deadlines and aborts end a wait', async () => {
  await using fake: FakeQmp = await fakeQmp(command => {
    if (command === 'block-export-del') fake.say('{"event": "BLOCK_EXPORT_DELETED", "data": {"id": "e"}}\n')
    return command === 'hang' ? undefined : '{"return": {}}'
  })
  await using qmp = await connect(fake.socket)
  const event = await qmp.until(
    ({ event: name }) => name === 'BLOCK_EXPORT_DELETED',
    () => qmp.execute('block-export-del'),
  )
  assert.equal(event.data.id, 'e')
  await assert.rejects(qmp.execute('hang', {}, { timeoutMs: 20 }), /did not answer in time/)
  await assert.rejects(qmp.execute('hang', {}, { signal: AbortSignal.timeout(20) }), { name: 'TimeoutError' })
  await assert.rejects(
    qmp.until(
      () => false,
      async () => {},
      { timeoutMs: 20 },
    ),
    /did not answer in time/,
  )
})

test('nonsense and endless lines close the connection instead of filling memory', async () => {
  for (const nonsense of ['not JSON\n', 'x'.repeat(1 << 20)]) {
    await using fake = await fakeQmp(() => undefined)
    await using qmp = await connect(fake.socket)
    const waiting = assert.rejects(qmp.execute('query-block'), error => isLifeboatError(error, 'guest-gone'))
    for (let count = 0; count < 70 && !qmp.isClosed; count++) {
      fake.say(nonsense)
      await systemClock.sleep(1)
    }
    await waiting
  }
})
