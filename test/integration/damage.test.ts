/** A flipped, truncated or missing object of any kind: exit code 4 where it matters, with its name and whom it harms; other points still restore. */
import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { leaseId, type PointId, pointId } from '../../src/core/ids.ts'
import { systemRandom } from '../../src/core/random.ts'
import { fenceKey, leaseKey, pinKey } from '../../src/repository/object-keys.ts'
import type { Manifest } from '../../src/repository/repository.ts'
import { sealManifest } from '../../src/repository/stored-manifest.ts'
import { done, refused, type SmallRepository, smallRepository } from '../doubles/bad-input.ts'
import type { Answer } from '../doubles/command-line.ts'

type Damage = 'flipped' | 'truncated' | 'missing'
const damages: readonly Damage[] = ['flipped', 'truncated', 'missing']

interface Found {
  readonly object: string
  readonly kind: string
  readonly points: readonly string[]
  readonly ranges: readonly { readonly point: string; readonly disk: string; readonly ranges: readonly object[] }[]
}

describe('damage', { timeout: 600_000 }, () => {
  let small: SmallRepository
  before(async () => {
    small = await smallRepository()
  })
  after(() => small[Symbol.asyncDispose]())
  beforeEach(() => small.reset())

  const at = (...parts: string[]) => small.cli.at(...parts)
  const run = (words: string) => small.cli.json(`${small.at} ${words}`)
  const again = () => run(`backup web1 --image vda=${small.image}`)

  async function objects(prefix: RegExp): Promise<string[]> {
    const all = await readdir(small.repo, { recursive: true, withFileTypes: true })
    const keys = all.filter(entry => entry.isFile()).map(entry => path.join(entry.parentPath, entry.name))
    return keys
      .map(key => path.relative(small.repo, key))
      .filter(key => prefix.test(key))
      .sort()
  }

  async function damage(key: string, how: Damage, where = 0.5): Promise<void> {
    const file = path.join(small.repo, key)
    if (how === 'missing') return await rm(file)
    const bytes = await readFile(file)
    if (how === 'truncated') return await writeFile(file, bytes.subarray(0, Math.floor(bytes.length * where)))
    bytes[Math.floor((bytes.length - 1) * where)]! ^= 0x10
    await writeFile(file, bytes)
  }

  async function restore(point: string): Promise<{ answer: Answer; content?: Buffer }> {
    const output = at('restored.raw')
    await rm(output, { force: true })
    const answer = await run(`restore ${point} --output ${output}`)
    if (answer.code === 0) return { answer, content: await readFile(output) }
    await assert.rejects(readFile(output), { code: 'ENOENT' }, 'a failed restore left its output')
    return { answer }
  }

  async function stillRestores(...points: readonly ('older' | 'newer' | 'other')[]): Promise<void> {
    for (const point of points) {
      const name = point === 'other' ? 'other@latest/sda' : `web1@${small.points[point === 'older' ? 0 : 1]}/vda`
      const { answer, content } = await restore(name)
      done(answer)
      const expected = point === 'other' ? await readFile(at('other.raw')) : small.contents[point === 'older' ? 0 : 1]
      assert.ok(content?.equals(expected), point)
    }
  }

  async function problems(): Promise<readonly Found[]> {
    const { code, json } = await run('verify --all')
    assert.ok(typeof json === 'object' && json !== null && 'problems' in json && Array.isArray(json.problems))
    assert.equal(code, json.problems.length === 0 ? 0 : 4)
    return json.problems
  }

  /** The pack of which only the newer point has chunks or nodes is the smaller of web1's two; other's is told apart by verify. */
  async function packOf(folder: 'packs' | 'meta', point: 'older' | 'newer'): Promise<string> {
    for (const key of await objects(new RegExp(`^${folder}/`))) {
      await damage(key, 'missing')
      const [found] = await problems()
      await small.reset()
      const harmed = found?.points.toSorted().join() ?? ''
      if (point === 'newer' && harmed === small.points[1]) return key
      if (point === 'older' && harmed === [...small.points].sort().join()) return key
    }
    throw new Error(`no pack of ${folder} for the ${point} point`)
  }

  test('config: nothing opens, the object is named, and it is damage and no wrong key', async () => {
    for (const where of [0.1, 0.3, 0.5, 0.7, 0.9]) {
      await small.reset()
      await damage('config', 'flipped', where)
      for (const words of ['points', 'verify --all', 'restore web1@latest/vda --output x'])
        refused(await run(words), { exit: 4, code: 'corrupt-object', object: 'config' })
    }
    await small.reset()
    const text = await readFile(path.join(small.repo, 'config'), 'utf8')
    await writeFile(path.join(small.repo, 'config'), text.replace(/"keyCheck":"../, '"keyCheck":"00'))
    await rm(at('state'), { recursive: true })
    refused(await run('points'), { exit: 4, code: 'corrupt-object', object: 'config' })
    await small.reset()
    await damage('config', 'truncated')
    refused(await run('points'), { exit: 4, code: 'corrupt-object', object: 'config' })
  })

  test("a key slot: damage to one's own slot is told from a wrong key", async () => {
    const [slot = ''] = await objects(/^keys\/[0-9a-f]{16}$/)
    for (const where of [0.4, 0.6, 0.99]) {
      await small.reset()
      await damage(slot, 'flipped', where)
      const answer = await run('points')
      assert.equal(answer.code, 4, answer.stdout)
      assert.equal(answer.error.object, slot)
    }
    await small.reset()
    await damage(slot, 'missing')
    const answer = await run('points')
    refused(answer, { exit: 4, code: 'missing-object', object: slot })
    assert.ok(answer.error.hint?.includes(slot), 'the hint names the slot that is not there')
    // Where others are there it was removed, or this is another key.
    await small.reset()
    small.cli.environment.LIFEBOAT_NEW_PASSPHRASE = 'a second'
    done(await run('key add --type passphrase'))
    await damage(slot, 'missing')
    const other = await run('points')
    refused(other, { exit: 2, code: 'key-wrong' })
    assert.ok(other.error.hint?.includes(slot))
  })

  test("a domain's keys: points are still listed, nothing restores, verify names the object and all points", async () => {
    const [keys = ''] = await objects(/^keys\/.*\/0$/)
    for (const how of damages) {
      await small.reset()
      await damage(keys, how)
      done(await run('points'))
      const { answer } = await restore('web1@latest/vda')
      refused(answer, { exit: 4, code: how === 'missing' ? 'missing-object' : 'corrupt-object', object: keys })
      const [found] = await problems()
      assert.equal(found?.object, keys)
      assert.equal(found?.points.length, 3)
      assert.equal((await again()).code, 4)
    }
  })

  test('a manifest: its point is lost, all others are listed and restore, and the next backup goes on', async () => {
    const [older = '', newer = ''] = await objects(/^points\/web1\//)
    for (const how of ['flipped', 'truncated'] as const) {
      await small.reset()
      await damage(newer, how)
      refused((await restore(`web1@${small.points[1]}/vda`)).answer, { exit: 4, code: 'corrupt-object', object: newer })
      const listed = await run('points')
      assert.equal(listed.code, 4)
      assert.ok(listed.stderr.includes(newer))
      assert.deepEqual(
        JSON.parse(listed.stdout)
          .points.map(({ id, state }: { id: string; state: string }) => [id, state])
          .slice(1),
        [
          [small.points[0], 'committed'],
          [small.points[1], 'damaged'],
        ],
      )
      assert.deepEqual(await problems().then(found => found.map(({ object, points }) => [object, ...points])), [
        [newer, small.points[1]],
      ])
      await stillRestores('older', 'other')
      done(await again())
      assert.ok((await restore('web1@latest/vda')).content?.equals(small.contents[1]))
    }
    await small.reset()
    await damage(older, 'missing')
    refused((await restore(`web1@${small.points[0]}/vda`)).answer, { exit: 2, code: 'no-such-point' })
    await stillRestores('newer', 'other')
    assert.deepEqual(await problems().then(found => found.map(({ object, kind }) => [object, kind])), [
      [older, 'rolled-back'],
    ])
  })

  for (const folder of ['packs', 'meta'] as const)
    test(`the body of a ${folder === 'packs' ? 'data' : 'meta'} pack: what it harms is named, the rest restores, a full backup heals`, async () => {
      const [older, newer] = [await packOf(folder, 'older'), await packOf(folder, 'newer')]
      for (const how of damages)
        for (const [key, harmed] of [
          [newer, [small.points[1]]],
          [older, [...small.points]],
        ] as const) {
          await small.reset()
          // In the older point's tree that is a leaf that both points share.
          await damage(key, how, key === older ? 0.5 : 0.3)
          const found = await problems()
          assert.deepEqual(
            found.map(({ object, kind }) => [object, kind]),
            [[key, how === 'missing' ? 'missing' : 'corrupt']],
          )
          assert.deepEqual(found[0]?.points.toSorted(), harmed.toSorted())
          assert.deepEqual(
            found[0]?.ranges.map(({ point, disk }) => `${point}/${disk}`).toSorted(),
            harmed.map(id => `${id}/vda`).toSorted(),
          )
          assert.ok(found[0]?.ranges.every(({ ranges }) => ranges.length > 0))
          const { answer } = await restore(`web1@${small.points[1]}/vda`)
          refused(answer, {
            exit: 4,
            code: how === 'missing' ? 'missing-object' : 'corrupt-object',
            object: key,
            message: new RegExp(`disk vda of point ${small.points[1]}`),
          })
          if (key === newer) await stillRestores('older')
          await stillRestores('other')
          done(await run(`backup web1 --full --image vda=${small.image}`))
          assert.ok((await restore('web1@latest/vda')).content?.equals(small.contents[1]), `${how} ${key}`)
        }
    })

  test('a base whose tree is damaged: the increment becomes a full read, with the reason', async () => {
    await damage(await packOf('meta', 'older'), 'missing')
    const changed = Buffer.from(small.contents[1])
    changed.fill(1, 600_000, 900_000)
    await writeFile(small.image, changed)
    const answer = done(await again())
    assert.match(answer.stderr, /^warning: .*read whole/m)
    assert.match(answer.stdout, /"reason":"base-gone"/)
    assert.ok((await restore('web1@latest/vda')).content?.equals(changed))
    await writeFile(small.image, small.contents[1])
  })

  test("a pack's footer and trailer: no point needs them, so that all restore, and the next backup goes on", async () => {
    for (const key of await objects(/^(packs|meta)\//))
      for (const back of [20, 62, 110]) {
        const file = path.join(small.repo, key)
        const bytes = await readFile(file)
        bytes[bytes.length - back]! ^= 1
        await writeFile(file, bytes)
      }
    await stillRestores('older', 'newer', 'other')
    done(await again())
    done(await run(`backup fresh --image vda=${small.image}`))
    assert.ok((await restore('fresh@latest/vda')).content?.equals(small.contents[1]))
  })

  test('an index: a backup does not fail for it', async () => {
    for (const how of damages) {
      await small.reset()
      for (const key of await objects(/^index\//)) await damage(key, how)
      done(await run(`backup fresh --image vda=${small.image}`))
      assert.ok((await restore('fresh@latest/vda')).content?.equals(small.contents[1]))
      await stillRestores('older', 'newer', 'other')
    }
  })

  test('leases, pins, holds and marks of damage that others left rotten hinder nobody, and verify names them', async () => {
    const rotten = [
      'damaged/00000000000000000000000000000000',
      'gc/00000000000000ac',
      leaseKey(leaseId('00000000000000aa')),
      pinKey('00000000000000ab'),
    ]
    for (const key of rotten) {
      await mkdir(path.dirname(path.join(small.repo, key)), { recursive: true })
      await writeFile(path.join(small.repo, key), 'rotten')
    }
    await stillRestores('older', 'newer', 'other')
    done(await again())
    assert.deepEqual((await problems()).map(({ object }) => object).sort(), rotten)
    assert.deepEqual(
      (await problems()).map(({ object }) => object).sort(),
      rotten.slice(1),
      'a mark of damage that nobody can read is not needed once all was read',
    )
    done(await run('points'))
  })

  test('a forgotten mark that does not authenticate: its point is not believed in silence, the others restore', async () => {
    const key = `forgotten/${small.points[1]}`
    await mkdir(path.join(small.repo, 'forgotten'))
    await writeFile(path.join(small.repo, key), 'rotten')
    refused((await restore(`web1@${small.points[1]}/vda`)).answer, { exit: 4, code: 'corrupt-object', object: key })
    await stillRestores('older', 'other')
    done(await again())
  })

  test('a fence that does not authenticate still voids its point, and no other', async () => {
    await using repository = await small.open()
    const point = (await repository.points()).find(({ id }) => id === small.points[1])
    assert.ok(point)
    const { lease } = await repository.manifest(point)
    const key = fenceKey(lease, 'self')
    await mkdir(path.dirname(path.join(small.repo, key)), { recursive: true })
    await writeFile(path.join(small.repo, key), 'rotten')
    refused((await restore(`web1@${small.points[1]}/vda`)).answer, { exit: 1, code: 'not-committed' })
    await stillRestores('older', 'other')
  })

  test('a manifest with absurd sizes, counts or offsets is refused before memory is allocated', async () => {
    await using repository = await small.open()
    const point = (await repository.points()).find(({ id }) => id === small.points[1])
    assert.ok(point)
    const good = await repository.manifest(point)
    const [disk] = good.disks
    assert.ok(disk)
    const top = (change: (view: DataView) => void): Uint8Array => {
      const bytes = Uint8Array.from(disk.top)
      change(new DataView(bytes.buffer))
      return bytes
    }
    const absurd: Record<string, Manifest> = {
      size: { ...good, disks: [{ ...disk, size: 2 ** 52 }] },
      level: { ...good, disks: [{ ...disk, level: 9 }] },
      chunks: { ...good, disks: [{ ...disk, chunkSize: 2 ** 31 }] },
      disks: { ...good, disks: Array.from({ length: 300 }, (_, n) => ({ ...disk, name: `d${n}`, top: disk.top })) },
      packs: { ...good, disks: [{ ...disk, top: top(view => view.setUint16(2, 65_535)) }] },
      width: { ...good, disks: [{ ...disk, top: top(view => view.setUint32(4, 0xffff_ffff)) }] },
      present: { ...good, disks: [{ ...disk, top: top(view => view.setUint32(8, 0xffff_ffff)) }] },
      short: { ...good, disks: [{ ...disk, top: disk.top.subarray(0, 11) }] },
    }
    const { store } = repository
    const sealer = { store, keys: repository.reading.keyring.repository, random: systemRandom }
    for (const [name, manifest] of Object.entries(absurd)) {
      await writeFile(path.join(small.repo, point.key), sealManifest(sealer, point.key, manifest))
      const usedBefore = process.memoryUsage().rss
      const { answer } = await restore(`web1@${small.points[1]}/vda`)
      assert.equal(answer.code, 4, `${name}: ${answer.stdout}`)
      assert.ok(['absurd-object', 'corrupt-object'].includes(answer.error.code ?? ''), `${name}: ${answer.stdout}`)
      assert.equal((await run('verify --all')).code, 4, name)
      assert.ok(process.memoryUsage().rss - usedBefore < 256 << 20, name)
      await stillRestores('older', 'other')
      done(await again())
      await small.reset()
    }
  })

  test('another point under a name that is not its own is refused', async () => {
    const [older = '', newer = ''] = await objects(/^points\/web1\//)
    const twin: PointId = pointId('00000000000000ff')
    const moved = newer.replace(small.points[1], twin)
    await writeFile(path.join(small.repo, moved), await readFile(path.join(small.repo, older)))
    refused((await restore(`web1@${twin}/vda`)).answer, { exit: 4, code: 'corrupt-object', object: moved })
    await stillRestores('older', 'newer')
  })
})
