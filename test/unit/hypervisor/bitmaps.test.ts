import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PointId } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { bitmapName, pointOfBitmap } from '../../../src/hypervisor/bitmap-name.ts'
import { type BitmapStep, changeBase, foldSteps, settle, switchSteps } from '../../../src/hypervisor/qemu/bitmaps.ts'
import { newPoint, REPOSITORY } from '../../doubles/shelf.ts'

const bitmap = (name: string, recording = true, inconsistent = false) => ({ name, recording, inconsistent })
const named = (point: PointId) => bitmapName(REPOSITORY, point)

test('only the name tells whose a bitmap is', () => {
  const point = newPoint()
  assert.equal(pointOfBitmap(named(point), REPOSITORY), point)
  for (const name of ['', 'libvirt-1', `lifeboat-ffffffff-${point}`, `${named(point)}0`, named(point).toUpperCase()])
    assert.equal(pointOfBitmap(name, REPOSITORY), undefined)
})

test('an inconsistent bitmap and one that stopped recording are removed and lost', () => {
  const name = named(newPoint())
  for (const bad of [bitmap(name, false, true), bitmap(name, false)]) {
    const settled = settle([bad, bitmap('other')], REPOSITORY, [])
    assert.deepEqual(settled, { steps: [{ do: 'remove', name }], lost: true })
    const request = { kind: 'incremental' as const, bases: [] }
    assert.deepEqual(changeBase({ name: 'vda', size: 1 }, settled, request), {
      kind: 'full',
      reason: 'bitmap-inconsistent',
    })
  }
})

test('of a run that was killed after the switch, the repository tells which bitmap is exact', () => {
  const [older, newer] = [newPoint(), newPoint()]
  const both = [bitmap(named(newer)), bitmap(named(older), false)]
  assert.deepEqual(settle(both, REPOSITORY, [newer, older]), {
    steps: [{ do: 'remove', name: named(older) }],
    survivor: { name: named(newer), point: newer },
    lost: false,
  })
  for (const bases of [[older], []])
    assert.deepEqual(settle(both, REPOSITORY, bases), {
      steps: foldSteps(named(older), named(newer)),
      survivor: { name: named(older), point: older },
      lost: false,
    })
})

test('each reason for a full read is told apart', () => {
  const [point, other] = [newPoint(), newPoint()]
  const disk = { name: 'vda', size: 100 }
  const base = (id: PointId, name: string, size: number) => ({ id, disks: [{ name, size }] })
  const reason = (
    bitmaps: ReturnType<typeof bitmap>[],
    bases: ReturnType<typeof base>[],
    kind: 'full' | 'incremental' = 'incremental',
  ) => {
    const change = changeBase(
      disk,
      settle(
        bitmaps,
        REPOSITORY,
        bases.map(({ id }) => id),
      ),
      { kind, bases },
    )
    return change.kind === 'full' ? change.reason : change.base
  }
  const own = [bitmap(named(point))]
  assert.equal(reason([], []), 'first-backup')
  assert.equal(reason(own, [base(point, 'vda', 100)], 'full'), 'requested')
  assert.equal(reason([], [base(point, 'vda', 100)]), 'bitmap-missing')
  assert.equal(reason([], [base(point, 'vdb', 100)]), 'disk-added')
  assert.equal(reason(own, [base(other, 'vda', 100)]), 'bitmap-foreign')
  assert.equal(reason(own, [base(point, 'vda', 99)]), 'disk-resized')
  assert.equal(reason(own, [base(other, 'vda', 100), base(point, 'vda', 100)]), point)
})

/** QEMU's bitmaps and a disk as sets of written blocks; every step takes effect wholly or not at all. */
class Model {
  readonly bitmaps = new Map<string, { recording: boolean; blocks: Set<number> }>()
  apply(steps: readonly BitmapStep[]): void {
    for (const step of steps) {
      const existing = this.bitmaps.get(step.name)
      if (step.do === 'add') {
        assert.equal(existing, undefined)
        this.bitmaps.set(step.name, { recording: true, blocks: new Set() })
        continue
      }
      assert.ok(existing, `${step.do} of an absent bitmap`)
      if (step.do === 'remove') this.bitmaps.delete(step.name)
      else if (step.do === 'merge') for (const block of this.bitmaps.get(step.from)!.blocks) existing.blocks.add(block)
      else existing.recording = step.do === 'enable'
    }
  }
  write(block: number): void {
    for (const { recording, blocks } of this.bitmaps.values()) if (recording) blocks.add(block)
  }
  list() {
    return [...this.bitmaps].map(([name, { recording }]) => bitmap(name, recording))
  }
}

/** qemu-img cannot do several steps at once: there, a kill may come between any two. */
for (const atomic of [true, false])
  test(`random histories of commits, aborts and kills: an increment never misses a write (${atomic ? 'QMP' : 'qemu-img'})`, t => {
    const seed = `bitmaps-${process.pid}`
    t.diagnostic(`seed ${seed}`)
    const random = seededRandom(seed)
    const below = (count: number) => Buffer.from(random(4)).readUInt32BE(0) % count
    let increments = 0
    for (let history = 0; history < 300; history++) {
      const model = new Model()
      const points: { id: PointId; after: Set<number> }[] = []
      const write = () => {
        const block = below(1000)
        model.write(block)
        for (const { after } of points) after.add(block)
      }
      /** False: killed within. qemu-img takes "enable and merge" of one bitmap as one call. */
      const carryOut = (steps: readonly BitmapStep[]): boolean => {
        const calls = atomic
          ? [steps]
          : steps.reduce<BitmapStep[][]>((all, step) => {
              if (all.at(-1)?.at(-1)?.name === step.name) all.at(-1)!.push(step)
              else all.push([step])
              return all
            }, [])
        for (const call of calls) {
          if (below(8) === 0) return false
          if (call.length > 0) model.apply(call)
          if (atomic || below(2)) write()
        }
        return true
      }
      for (let run = 0; run < 12; run++) {
        write()
        const bases = points.map(({ id }) => id).slice(0, 1 + below(3))
        const settled = settle(model.list(), REPOSITORY, bases)
        if (!carryOut(settled.steps)) continue
        const change = changeBase({ name: 'vda', size: 1 }, settled, {
          kind: below(6) ? 'incremental' : 'full',
          bases: bases.map(id => ({ id, disks: [{ name: 'vda', size: 1 }] })),
        })
        const id = newPoint()
        const older = settled.survivor?.name
        const since = new Map(points.map(point => [point.id, new Set(point.after)]))
        const pending = { id, after: new Set<number>() }
        if (!carryOut(switchSteps(older, named(id)))) continue
        if (change.kind === 'incremental') {
          increments++
          const told = model.bitmaps.get(change.bitmap)!.blocks
          for (const block of since.get(change.base)!)
            assert.ok(told.has(block), `block ${block} is missing since ${change.base}`)
        }
        points.unshift(pending)
        const committed = below(3) > 0
        write()
        if (!committed) points.shift()
        if (below(4) === 0) continue
        carryOut(
          committed
            ? older === undefined
              ? []
              : [{ do: 'remove', name: older }]
            : older === undefined
              ? [{ do: 'remove', name: named(id) }]
              : foldSteps(older, named(id)),
        )
        assert.ok(model.bitmaps.size <= 2)
      }
    }
    assert.ok(increments > 500, `only ${increments} increments were tried`)
  })
