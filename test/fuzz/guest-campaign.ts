/**
 * A server that lies: each reply of an honest one is changed by the seed, then the stream ends. Whatever comes of it, every call
 * settles, with the truth, with something that was well-formed, or with an error that has a code; memory stays bounded.
 */
import assert from 'node:assert/strict'
import { systemClock } from '../../src/core/clock.ts'
import { LifeboatError } from '../../src/core/errors.ts'
import { MiB } from '../../src/core/limits.ts'
import { type Random, seededRandom } from '../../src/core/random.ts'
import type { DirectoryNode, TreeNode } from '../../src/files/file-tree.ts'
import { isName } from '../../src/files/name.ts'
import { type RemoteGuests, remoteGuests } from '../../src/guest/remote-tree.ts'
import { frame, guestServer, type ServedRequest, sendHonest } from '../doubles/guest-server.ts'

export interface CampaignFigures {
  malformed: number
  /** How calls ended: by code, or 'answered'. */
  readonly outcomes: Map<string, number>
}

const CALLS = [
  'volumes',
  'unlock',
  'open',
  'statfs',
  'lookup',
  'list',
  'pages',
  'link',
  'xattrs',
  'read',
  'extents',
] as const
type CallName = (typeof CALLS)[number]

/** Malformed replies of each kind of call, `count` in all. */
export async function lyingServers(seed: string, count: number): Promise<CampaignFigures> {
  const random = seededRandom(seed)
  const figures: CampaignFigures = { malformed: 0, outcomes: new Map() }
  const before = process.memoryUsage()
  for (let round = 0; figures.malformed < count; round++) {
    const call = CALLS[round % CALLS.length] ?? 'volumes'
    // From where it went wrong it can be had again.
    await oneLie(call, random, figures).catch(error => {
      throw new Error(`seed ${seed}, round ${round}, ${call}: ${error.message}`, { cause: error })
    })
  }
  const after = process.memoryUsage()
  assert.ok(after.rss - before.rss < 300 * MiB, `${(after.rss - before.rss) / MiB} MiB more`)
  return figures
}

async function oneLie(call: CallName, random: Random, figures: CampaignFigures): Promise<void> {
  let honestOnes = isGreeting(random) ? 0 : Number.POSITIVE_INFINITY
  const stream = guestServer((request, honest, toClient) => {
    if (honestOnes-- > 0) return sendHonest(request, honest, toClient)
    figures.malformed++
    toClient.write(lie(honest, request, random))
    toClient.end()
  })
  const settled = async (work: () => Promise<unknown>): Promise<boolean> => {
    try {
      await work()
      count(figures, 'answered')
      return true
    } catch (error) {
      assert.ok(error instanceof LifeboatError, `${error}`)
      assert.ok(typeof error.details.hint === 'string' || error.code === 'interrupted', `${error.code} without a hint`)
      count(figures, error.code)
      return false
    }
  }
  let guests: RemoteGuests | undefined
  const greeted = await settled(async () => {
    guests = await remoteGuests({ stream, clock: systemClock, treePrefix: 'fuzz' })
  })
  if (!greeted || guests === undefined) return
  await using opened = guests
  const prepared = honestOnes === Number.POSITIVE_INFINITY ? await prepare(opened, call) : undefined
  honestOnes = 0
  if (prepared) await settled(() => perform(opened, call, prepared))
  // And whoever comes later is told, too.
  await settled(() => opened.volumes())
}

const isGreeting = (random: Random): boolean => below(random, 12) === 0
const count = ({ outcomes }: CampaignFigures, what: string) => outcomes.set(what, (outcomes.get(what) ?? 0) + 1)

interface Prepared {
  readonly root?: DirectoryNode
  readonly node?: TreeNode
}

async function prepare(guests: RemoteGuests, call: CallName): Promise<Prepared> {
  if (call === 'volumes' || call === 'unlock' || call === 'open' || call === 'statfs') return {}
  const { root } = await guests.open('vda-p1')
  const name = call === 'pages' ? 'many' : call === 'link' ? 'link' : call === 'lookup' || call === 'list' ? '' : 'file'
  const node = await root.lookup(name)
  return { root, ...(node ? { node } : {}) }
}

async function perform(guests: RemoteGuests, call: CallName, { root, node }: Prepared): Promise<void> {
  if (call === 'unlock') return await guests.unlock('vda-p1', Buffer.from('key'))
  if (call === 'volumes') return checkNames((await guests.volumes()).map(volume => volume.name))
  if (call === 'open' || call === 'statfs') return void (await (await guests.open('vda-p1')).statfs?.())
  if (call === 'lookup') return void (await root?.lookup('file'))
  const folder = node?.kind === 'directory' ? node : root
  if (call === 'list' || call === 'pages')
    for await (const entries of folder?.list() ?? []) checkNames(entries.map(({ name }) => name))
  if (call === 'link' && node?.kind === 'symlink') await node.readLink()
  if (call === 'xattrs') await node?.xattrs()
  if (node?.kind !== 'file') return
  await using reader = await node.open()
  if (call === 'read') await reader.readInto(Buffer.alloc(10_000), 5_000)
  if (call === 'extents') {
    let covered = 0
    for await (const { offset, length } of reader.extents({ offset: 0, length: reader.size })) {
      assert.equal(offset, covered)
      covered += length
    }
    assert.equal(covered, reader.size)
  }
}

const checkNames = (names: readonly string[]): void => {
  for (const name of names) assert.ok(isName(name), JSON.stringify(name))
}

/** One of many ways in which a reply can be wrong. Numbers are made extreme more often than chance would have it. */
function lie(honest: Buffer, request: ServedRequest, random: Random): Buffer {
  const bytes = Buffer.from(honest)
  const body = bytes.length - 10
  const anywhere = below(random, bytes.length)
  const inBody = 10 + below(random, Math.max(1, body))
  switch (below(random, 10)) {
    case 0:
      bytes[anywhere]! ^= 1 << below(random, 8)
      return bytes
    case 1:
      for (let n = below(random, 8); n >= 0; n--) bytes[below(random, bytes.length)] = below(random, 256)
      return bytes
    case 2:
      return bytes.subarray(0, anywhere)
    case 3:
      // The frame is whole, its body is not.
      return frame(request.tag, bytes.subarray(10, inBody))
    case 4:
      return frame(request.tag, Buffer.concat([bytes.subarray(10), Buffer.from(random(1 + below(random, 64)))]))
    case 5:
      bytes.writeUInt32LE(EXTREME[below(random, EXTREME.length)]!, Math.min(inBody, bytes.length - 4))
      return bytes
    case 6:
      bytes.writeUInt32LE(EXTREME[below(random, EXTREME.length)]!, 4 * below(random, 2))
      return bytes
    case 7:
      return Buffer.concat([bytes, bytes])
    case 8:
      return frame(request.tag, {
        errno: below(random, 70_000) & 0xffff,
        text: Buffer.from(random(below(random, 5_000))).toString('latin1'),
      })
    default:
      return frame(request.tag, Buffer.from(random(below(random, 400))))
  }
}

const EXTREME = [0, 1, 5, 6, 255, 256, 65_535, 65_536, 1_114_112, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 2, 2 ** 32 - 1]

const below = (random: Random, bound: number): number => Buffer.from(random(4)).readUInt32LE() % bound
