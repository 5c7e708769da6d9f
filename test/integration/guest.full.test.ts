/** The larger guests: UEFI firmware, nvme, and Debian with systemd and the guest agent. */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { debianImage } from '../guest/debian-image.ts'
import { tinyImage } from '../guest/tiny-image.ts'
import { copyImage } from '../guest/tool.ts'
import { startVm } from '../guest/vm.ts'

const folder = mkdtempSync(join(tmpdir(), 'lifeboat-guest-'))
after(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'system.raw')

test('a tiny guest boots from nvme by its own boot loader', async () => {
  const image = await tinyImage()
  await copyImage(image.disk, path)
  await using vm = await startVm({ disks: [{ name: 'vda', path, format: 'raw', bus: 'nvme' }] })
  await vm.waitForPrompt()
  assert.match(await vm.must('mount'), /nvme0n1p2 on \/ /)
})

test('a tiny guest boots by UEFI firmware', async () => {
  const image = await tinyImage({ firmware: 'uefi' })
  await copyImage(image.disk, path)
  await using vm = await startVm({ disks: [{ name: 'vda', path, format: 'raw' }], firmware: 'uefi' })
  await vm.waitForPrompt()
  await vm.must('test -d /sys/firmware/efi')
  assert.ok(vm.variables !== undefined && existsSync(vm.variables))
  await vm.poweroff()
})

test('a Debian guest boots with systemd and its guest agent', { timeout: 30 * 60_000 }, async () => {
  const image = await debianImage()
  await copyImage(image.disk, path)
  const disks = [{ name: 'vda', path, format: 'raw' }] as const
  await using vm = await startVm({ disks, memoryMiB: 512, agent: true, bootTimeoutMs: image.bootTimeoutMs })
  await vm.waitForPrompt()
  assert.equal(await vm.must('cat /proc/1/comm'), 'systemd')
  assert.equal(await vm.must('systemctl is-active qemu-guest-agent'), 'active')
  await vm.poweroff()
})
