/** One walk: a store at its start, hosts that write, read, forget and collect, one schedule of all their steps, and a last look. */
import { isLifeboatError } from '../../../src/core/errors.ts'
import type { PointId } from '../../../src/core/ids.ts'
import { fencesPrefix, parseFenceKey, pointKey } from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import { type MemoryStore, memoryStore } from '../../../src/storage/memory.ts'
import { keysOf, openMemoryRepository, readBack, timeNumber } from '../../doubles/memory-repository.ts'
import { type Actor, collect, forget, imageNamed, read, summaryOfKey, write } from './actors.ts'
import type { Configuration } from './configuration.ts'
import { type Dice, dice as diceOf } from './dice.ts'
import { type Host, type HostOptions, host as hostOf, type Loss, type Surroundings } from './host.ts'
import { pipelineInSmall } from './in-small.ts'
import type { Mutant, Role } from './mutants.ts'
import { type Oracle, oracle as oracleOf } from './oracle.ts'
import { Scheduler, type Strategy } from './scheduler.ts'
import { CHUNK, DISK_CHUNKS, makeStart, type Start, VM } from './start.ts'
import { drawStrategy, type Phase, steered } from './strategy.ts'

export interface WalkRequest {
  readonly configuration: Configuration
  readonly seed: number
  /** One rule that a host does not keep. */
  readonly mutant?: Mutant
  readonly steer?: Steer
}

/** Makes one story likely. */
export interface Steer {
  readonly phases: readonly Phase[]
  readonly pageKeys?: number
  /** When the writers' points are dated, in hours from those that are there. */
  readonly datedHours?: readonly number[]
}

export interface WalkResult {
  readonly violation?: string
  readonly story: readonly string[]
  /** How each process ended: 'done', 'died', or the code of its error. */
  readonly ends: ReadonlyMap<string, string>
  /** How often a harmless mutant got another answer than it would have. */
  readonly differences: number
}

interface Process {
  readonly name: string
  readonly role: Role
  readonly run: (actor: Actor) => Promise<void>
  readonly loses?: HostOptions['loses']
}

/** What everything in a walk works with. */
interface World {
  readonly start: Start
  readonly seed: number
  readonly dice: Dice
  readonly mutant: Mutant | undefined
  readonly scheduler: Scheduler
  readonly store: MemoryStore
  /** Past the schedule. */
  readonly repository: OpenedRepository
  readonly oracle: Oracle
  readonly surroundings: Surroundings
  readonly names: Map<string, string>
  readonly ends: Map<string, string>
  differences: number
}

const STARTED_AT = Date.parse('2026-02-03T04:05:06Z')
const HOUR = 3_600_000
const STEPS_MAX = 6000
/** Short, so that a collector which looks each minute need not look often. */
const LEASE_EXPIRY_MS = 120_000
const starts = new Map<string, Promise<Start>>()

export async function walk({ configuration, seed, mutant, steer }: WalkRequest): Promise<WalkResult> {
  const made = starts.get(configuration.name) ?? makeStart(configuration)
  starts.set(configuration.name, made)
  const start = await made
  const dice = diceOf(seed)
  const processes = planProcesses(start, dice, steer)
  const world = await makeWorld({ start, seed, dice, mutant, steer, processes })
  const { scheduler, ends } = world
  const hosts = new Map<string, Host>()
  for (const process of processes) hosts.set(process.name, await launch(world, process))
  const deaths = steer ? new Map<number, string[]>() : drawDeaths(dice, processes)
  await scheduler.run(step => {
    for (const name of deaths.get(step) ?? []) {
      if (ends.has(name)) continue
      ends.set(name, 'died')
      hosts.get(name)?.crash()
    }
  })
  refuseStuck(world, processes)
  if (scheduler.stopped === undefined) await endQuietly(world)
  return { violation: scheduler.stopped, story: scheduler.story, ends, differences: world.differences }
}

async function makeWorld({
  start,
  seed,
  dice,
  mutant,
  steer,
  processes,
}: Pick<World, 'start' | 'seed' | 'dice' | 'mutant'> & {
  readonly steer?: Steer
  readonly processes: readonly Process[]
}): Promise<World> {
  const names = new Map(start.names)
  const nameOf = (key: string): string =>
    key
      .replace(/^(packs|meta)\/[^/]+\/[^/]+\//, '$1/')
      .replace(/\d{8}T\d{6}Z-/, '')
      .replace(/[0-9a-f]{16,}/g, id => names.get(id) ?? id.slice(0, 4))
  const drawn = drawStrategy(
    dice,
    processes.map(({ name }) => name),
  )
  const strategy = steer ? steered(dice, steer.phases, drawn) : drawn
  const scheduler = new Scheduler({ dice, stepsMax: STEPS_MAX, strategy })
  const time = { startedAt: STARTED_AT, elapsedMs: 0 }
  const clock = {
    now: () => new Date(time.startedAt + time.elapsedMs),
    monotonicMs: () => time.elapsedMs,
    sleep: () => Promise.reject(new Error('a store does not sleep')),
  }
  const store = memoryStore({ entries: start.entries, clock })
  const violated = (what: string) => scheduler.stop(what)
  const repository = await openMemoryRepository(store, { pipeline: pipelineInSmall, seed: 'oracle', clock })
  const oracle = await oracleOf({ store, repository, violated, nameOf })
  const surroundings: Surroundings = {
    scheduler,
    dice,
    store,
    nameOf,
    time,
    pageKeys: steer?.pageKeys ?? dice.pick([1, 2, 3, 1000]),
    lossRate: !steer && dice.chance(0.25) ? 0.01 : 0,
    changed: oracle.changed,
  }
  return {
    start,
    seed,
    dice,
    mutant,
    scheduler,
    store,
    repository,
    oracle,
    surroundings,
    names,
    ends: new Map(),
    differences: 0,
  }
}

function planProcesses(start: Start, dice: Dice, steer: Steer | undefined): Process[] {
  const { writers = [], collectors = 0, forgets = [], exports = [] } = start.configuration
  // Names of points carry the times of hosts whose clocks are wrong: they come in any order.
  const times = writers.map((_, n) => {
    const hours = steer?.datedHours?.[n] ?? dice.roll(40 * 24) - 20 * 24
    return new Date(timeNumber(1).getTime() + hours * HOUR)
  })
  const manifestOf = (name: string): string =>
    start.manifests.get(name) ?? pointKey(VM, times[Number(name.slice(1)) - 1]!, start.pointIds.get(name)!)
  return [
    ...writers.map((plan, n): Process => {
      const run = (actor: Actor) => write(actor, n, plan, times[n]!)
      return {
        name: `W${n + 1}`,
        role: 'writer',
        run,
        ...(plan.isAmbiguous ? { loses: losesManifest(dice, steer !== undefined) } : {}),
      }
    }),
    ...exports.map((point, n): Process => {
      const run = (actor: Actor) => read(actor, summaryOfKey(manifestOf(point)))
      return { name: `E${n + 1}`, role: 'export', run }
    }),
    ...forgets.map((point, n): Process => {
      const run = (actor: Actor) => forget(actor, summaryOfKey(manifestOf(point)))
      return { name: `F${n + 1}`, role: 'forget', run }
    }),
    ...Array.from({ length: collectors }, (_, n): Process => ({ name: `GC${n + 1}`, role: 'collector', run: collect })),
  ]
}

const losesManifest =
  (dice: Dice, isAlwaysLate: boolean): HostOptions['loses'] =>
  (verb, key) =>
    verb === 'put' && key.startsWith('points/')
      ? isAlwaysLate
        ? 'lands later'
        : dice.pick<Loss | undefined>([undefined, 'lands', 'lands later', 'lands later', 'never lands'])
      : undefined

async function launch(world: World, process: Process): Promise<Host> {
  const { start, seed, dice, mutant, scheduler, oracle, surroundings, ends } = world
  const { name, role, run, loses } = process
  const host = hostOf(surroundings, { name, loses })
  const store = named(host.store, world, name)
  const own = {
    ...host,
    store: mutant?.roles.includes(role)
      ? mutant.mutate(store, { ...world, differed: () => world.differences++ })
      : store,
  }
  const repository = await openMemoryRepository(own.store, {
    pipeline: pipelineInSmall,
    seed: `${seed} ${name}`,
    clock: host.clock,
    leaseExpiryMs: LEASE_EXPIRY_MS,
  })
  host.begin()
  const ended = async () => {
    await scheduler.request(name, 'begins')
    await run({ host: own, repository, oracle, dice, start })
  }
  ended().then(
    () => void ends.set(name, 'done'),
    error => {
      const code = isLifeboatError(error) ? error.code : String(error)
      ends.set(name, code)
      const why = scheduler.isCrashed(name) || isExpected(world, process, error)
      if (scheduler.story.length > 0) scheduler.note(name, `ends with ${code}`)
      if (!why) scheduler.stop(`${name} failed: ${error instanceof Error ? (error.stack ?? error.message) : error}`)
    },
  )
  return host
}

/** Leases and runs get their owner's name in the story. */
function named(store: Host['store'], { names }: World, name: string): Host['store'] {
  return {
    ...store,
    async put(key, body, options) {
      const [folder, id = ''] = key.split('/')
      if (folder === 'leases') names.set(id, `L-${name}`)
      if (folder === 'gc') names.set(id, `run-${name}`)
      if (folder === 'pins') names.set(id, `pin-${name}`)
      return store.put(key, body, options)
    },
  }
}

/** How each may end without fault of anybody: a request went unanswered, or the rules say no. */
const EXPECTED: Readonly<Record<Role, readonly string[]>> = {
  writer: ['not-committed', 'lease-lost'],
  export: ['point-forgotten', 'no-such-point', 'not-committed'],
  forget: ['point-protected'],
  collector: [],
}

function isExpected({ oracle, names }: World, { name, role }: Process, error: unknown): boolean {
  if (!isLifeboatError(error)) return false
  if (error.code === 'store-unreachable' || EXPECTED[role].includes(error.code)) return true
  // A writer that was taken for dead may find its base gone.
  if (role !== 'writer' || error.code !== 'missing-object') return false
  return [...names].some(([lease, owner]) => owner === `L-${name}` && oracle.wasFenced(lease))
}

/** Some walks have hosts that die, at a step drawn beforehand. */
function drawDeaths(dice: Dice, processes: readonly Process[]): ReadonlyMap<number, readonly string[]> {
  const deaths = new Map<number, string[]>()
  if (!dice.chance(0.3)) return deaths
  for (let n = 1 + dice.roll(2); n > 0; n--) {
    const step = dice.roll(200)
    deaths.set(step, [...(deaths.get(step) ?? []), dice.pick(processes).name])
  }
  return deaths
}

function refuseStuck({ scheduler, ends }: World, processes: readonly Process[]): void {
  const stuck = processes.filter(({ name }) => !ends.has(name))
  if (stuck.length > 0) scheduler.stop(`deadlock: ${stuck.map(({ name }) => name).join(', ')} wait for ever`)
}

const calmly: Strategy = { tick: 0, choose: ready => ready[0] }

/** All is quiet. One more collection, undisturbed, must find all garbage and leave what counts. */
async function endQuietly(world: World): Promise<void> {
  const { scheduler, surroundings } = world
  scheduler.story.push('all is quiet')
  scheduler.strategy = calmly
  const last: Process = { name: 'last GC', role: 'collector', run: collect }
  await launch({ ...world, mutant: undefined, surroundings: { ...surroundings, lossRate: 0, pageKeys: 1000 } }, last)
  await scheduler.run()
  refuseStuck(world, [last])
  if (scheduler.stopped === undefined) await lastLook(world)
}

async function lastLook(world: World): Promise<void> {
  const { scheduler, store, oracle, start, ends, names, surroundings } = world
  const { nameOf } = surroundings
  const violated = (what: string) => scheduler.stop(what)
  if (ends.get('last GC') !== 'done') return violated(`I5 a collection alone ends with ${ends.get('last GC')}`)
  // A repaired node reaches more than its point does: no rule says when that goes.
  const [garbage] = start.marked.length > 0 ? [] : oracle.garbage()
  if (garbage !== undefined) return violated(`I5 nobody needs ${nameOf(garbage)}, and it is still there`)
  const [lease] = keysOf(store, 'leases/')
  // Where there is nothing to remove, nobody need wait for leases.
  const wasAnnounced = [...names.values()].includes('run-last GC')
  if (lease !== undefined && wasAnnounced) return violated(`I5 ${nameOf(lease)} stays for ever`)
  const repository = await openMemoryRepository(store, { pipeline: pipelineInSmall, seed: 'last look' })
  const points = await repository.points({ all: true })
  for (const { id, state } of points) {
    if (state === 'void' && oracle.isConfirmed(id) && !isFencedByTheDead(store, oracle, id, ends))
      return violated(`I5 point ${nameOf(id)} was confirmed and is void for ever`)
    if (state !== 'committed') continue
    if (!(await readsBack(world, id))) return violated(`I1 point ${nameOf(id)} reads back wrong`)
  }
  // What repairs have copied reads without the damaged objects; but one that arrived when its writer had ended may lead nowhere.
  if (ends.get('W1') !== 'done' || surroundings.lossRate > 0) return
  const x = start.pointIds.get('X')
  if (start.marked.length === 0 || !points.some(({ id }) => id === x)) return
  const repaired = start.marked.filter(key => keysOf(store, `${key}.`).length > 0)
  for (const key of repaired) store.tamper(key, undefined)
  if (!(await readsBack(world, x!))) violated('I6 the repair of X does not read back')
}

async function readsBack({ start, store, surroundings }: World, point: PointId): Promise<boolean> {
  const expected = new Uint8Array(DISK_CHUNKS * CHUNK)
  for (const [chunk, content] of imageNamed(start, point)) expected.set(start.bytesOf(content), chunk * CHUNK)
  try {
    const repository = await openMemoryRepository(store, { pipeline: pipelineInSmall, seed: 'read back' })
    return Buffer.compare(await readBack(repository, point, 'vda'), expected) === 0
  } catch (error) {
    surroundings.scheduler.story.push(`reading back fails: ${error}`)
    return false
  }
}

/** A collector that ends between its fence and its look at the manifest leaves a fence that only a person may take away. */
function isFencedByTheDead(
  store: MemoryStore,
  oracle: Oracle,
  point: Parameters<Oracle['isConfirmed']>[0],
  ends: World['ends'],
) {
  const lease = oracle.leaseOf(point)
  const fences = keysOf(store, fencesPrefix).flatMap(key => parseFenceKey(key) ?? [])
  const complete = [...ends].every(([name, end]) => !name.startsWith('GC') || end === 'done')
  return !complete && fences.some(fence => fence.lease === lease && fence.by !== 'self')
}
