/** R9 with a VM: the store refuses all connections while its guest boots from it, for less and for longer than `--retry-for`. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { readSession } from '../../src/recovery/session.ts'
import { startChaosProxy } from '../doubles/chaos-proxy.ts'
import { commandLine } from '../doubles/command-line.ts'
import { startS3Fake } from '../doubles/s3-fake.ts'
import { connectConsole } from '../guest/console.ts'
import { tinyImage } from '../guest/tiny-image.ts'

for (const { awayMs, retryFor, stops } of [
  { awayMs: 20_000, retryFor: '120s', stops: false },
  { awayMs: 25_000, retryFor: '4s', stops: true },
])
  test(`away for ${awayMs / 1000} s in mid-boot with --retry-for ${retryFor}: the guest ${stops ? 'is stopped, goes on' : 'waits'} and sees no error`, async () => {
    const image = await tinyImage()
    await using fake = await startS3Fake({ buckets: { bucket: {} } })
    await using proxy = await startChaosProxy({ upstream: fake.endpoint })
    await using t = commandLine({
      AWS_ACCESS_KEY_ID: fake.credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: fake.credentials.secretAccessKey,
      LIFEBOAT_REPO: `s3://bucket/vms?endpoint=${proxy.endpoint}`,
    })
    Object.assign(t.environment, { LIFEBOAT_KEY_FILE: t.at('key'), LIFEBOAT_CACHE_DIR: t.at('cache') })
    for (const words of ['init', `backup vm --image vda=${image.disk}`]) {
      const { code, stderr } = await t.json(words)
      assert.equal(code, 0, stderr)
    }
    const { kernel, initrd, append } = image.direct
    const stop = new AbortController()
    const words = `--retry-for ${retryFor} boot vm@latest --session one --accel tcg --memory 256M --kernel ${kernel} --append`
    const live = '--cache-size 4MiB --disk-cache-size 0 --no-trace'
    const booting = t.json([...words.split(' '), append, ...live.split(' '), '--', '-initrd', initrd, '-no-reboot'], {
      signal: stop.signal,
    })
    let said = ''
    void booting.then(({ stdout, stderr }) => {
      said = stdout + stderr
    })
    const state = async () => await readSession(t.at('state'), 'one').catch(() => undefined)
    while ((await state())?.state !== 'running') {
      assert.equal(said, '')
      await systemClock.sleep(20)
    }
    const gets = () => fake.requests.filter(({ operation }) => operation === 'GetObject').length
    try {
      using guest = await connectConsole((await state())?.sockets.serial ?? '')
      proxy.refuse(true)
      const before = gets()
      // It begins to count when the guest wants something that it does not get.
      while (proxy.fired.length === 0) await systemClock.sleep(50)
      await systemClock.sleep(awayMs)
      assert.equal(gets(), before, 'the store was away')
      proxy.refuse(false)
      await guest.waitForPrompt(image.bootTimeoutMs * 3)
      assert.ok(gets() > before, 'the guest had not read all that it needed')
      assert.equal((await guest.must("dmesg | grep -ci 'i/o error' || true")).trim(), '0')
      await guest.must('find /bin /etc /boot -xdev -type f | xargs cat > /dev/null')
    } finally {
      stop.abort(new Error('the test has ended'))
      await booting
    }
    const refused = proxy.fired.filter(({ fault }) => fault === 'refuse').length
    const times = [...said.matchAll(/QEMU has stopped the guest over an I\/O error/g)].length
    process.stdout.write(`# ${refused} connections refused; QEMU stopped the guest ${times} times\n`)
    assert.ok(refused > 3, 'the outage was met')
    assert.equal(times > 0, stops, said)
    if (stops) assert.match(said, /the guest goes on/)
  })
