/** The units that are shipped are what systemd takes them for. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { limits } from '../../src/core/limits.ts'
import { lacking } from '../doubles/peer-tools.ts'

const folder = path.join(import.meta.dirname, '../../systemd')
const units = readdirSync(folder)
const verify = (file: string) => spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' })

test('systemd-analyze finds nothing to say of the units, and would', { skip: lacking('systemd-analyze') }, () => {
  assert.deepEqual(units, ['lifeboat-resume.service', 'lifeboat-session@.service'])
  for (const unit of units) {
    const { status, stdout, stderr } = verify(path.join(folder, unit))
    assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: '', stderr: '' }, unit)
  }
  const broken = path.join(mkdtempSync(path.join(tmpdir(), 'lifeboat-units-')), 'broken.service')
  try {
    writeFileSync(
      broken,
      readFileSync(path.join(folder, 'lifeboat-resume.service'), 'utf8').replace('ExecStart', 'ExecStrat'),
    )
    assert.notEqual(verify(broken).stderr, '')
  } finally {
    rmSync(path.dirname(broken), { recursive: true })
  }
})

test('a session unit leaves QEMU alone, starts again after a crash, and waits as long as a session may take', () => {
  const text = readFileSync(path.join(folder, 'lifeboat-session@.service'), 'utf8')
  const value = (name: string) => new RegExp(`^${name}=(.*)$`, 'm').exec(text)?.[1]
  assert.equal(value('KillMode'), 'process')
  assert.equal(value('Restart'), 'on-failure')
  assert.ok(Number(value('TimeoutStopSec')) * 1000 > limits.qemuStopMs)
  assert.ok(Number(value('TimeoutStartSec')) * 1000 > limits.firstReadMs + limits.qemuStopMs)
  const words = (value('ExecStart') ?? '').split(' ').slice(1)
  assert.deepEqual(words, ['lifeboat', 'session', 'resume', '%i'])
  const help = execFileSync(
    process.execPath,
    [path.join(import.meta.dirname, '../../bin/lifeboat.mjs'), 'session', '--help'],
    {
      encoding: 'utf8',
    },
  )
  const all = /^ExecStart=\S+ lifeboat (.*)$/m.exec(
    readFileSync(path.join(folder, 'lifeboat-resume.service'), 'utf8'),
  )?.[1]
  for (const flag of all?.match(/--[a-z]+/g) ?? []) assert.ok(help.includes(flag), flag)
})
