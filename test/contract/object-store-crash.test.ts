import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { isLifeboatError } from '../../src/core/errors.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'
import { type CrashRun, crashEverywhere } from '../doubles/crash.ts'
import { versionBytes } from '../doubles/directory-store-child.ts'

/** What the child was told is durable: of each key its version, 0 where it was deleted. */
const acknowledged = ({ lines }: CrashRun): Map<string, number> =>
  new Map(
    lines.map(line => {
      const [, key = '', version] = line.split(' ')
      return [key, Number(version)]
    }),
  )

/** The version that a key may have reached without an answer when the process died. */
const STEPS: readonly (readonly [string, number])[] = [
  ['packs/ab/one', 1],
  ['config', 1],
  ['config', 2],
  ['leases/x', 1],
  ['packs/ab/one', 0],
  ['packs/ab/one', 2],
]

test('a directory store killed before or after any change of the disk has lost nothing that was acknowledged', async t => {
  let leftovers = 0
  const count = await crashEverywhere({
    program: new URL('../doubles/directory-store-child.ts', import.meta.url),
    prepare: async () => [join(await mkdtemp(join(tmpdir(), 'lifeboat-crash-')), 'repository')],
    inspect: async (run, [root = '']) => {
      try {
        const store = filesystemStore(root, { create: true })
        const done = acknowledged(run)
        const [unansweredKey, unansweredVersion] = STEPS[run.lines.length] ?? ['', 0]
        for (const key of new Set(STEPS.map(([key]) => key))) {
          const allowed = new Set([done.get(key) ?? 0])
          if (key === unansweredKey) allowed.add(unansweredVersion)
          const bytes = await store.get(key).catch(error => {
            if (isLifeboatError(error, 'store-not-found')) return undefined
            throw error
          })
          const found = [0, 1, 2].find(version =>
            version === 0 ? bytes === undefined : bytes && Buffer.compare(bytes, versionBytes(key, version)) === 0,
          )
          assert.ok(found !== undefined, `${key} is torn: ${bytes?.length} bytes`)
          assert.ok(allowed.has(found), `${key} is at version ${found}, allowed are ${[...allowed]}`)
        }
        const listed = (await Array.fromAsync(store.list(''))).map(({ key }) => key)
        for (const key of listed) assert.ok(await store.head(key), `${key} is listed`)
        assert.deepEqual(
          listed.filter(key => key.includes('.tmp-')),
          [],
        )
        leftovers += (await readdir(root, { recursive: true }).catch(() => [])).filter(name =>
          name.includes('.tmp-'),
        ).length
        await store.put('config', [versionBytes('config', 3)])
        assert.deepEqual(await store.get('config'), versionBytes('config', 3), 'and the store works on')
      } finally {
        await rm(join(root, '..'), { recursive: true, force: true })
      }
    },
  })
  t.diagnostic(`${count} changes, ${2 * count} kills, ${leftovers} unfinished files left behind`)
  assert.ok(count >= 30, `${count} mutations were seen`)
  assert.ok(leftovers > 0, 'some kills fell into a write')
})
