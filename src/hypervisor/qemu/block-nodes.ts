/** The block devices of a running QEMU and what lies under them: query-block and friends as values. Pure parsing and lookups. */
import type { OmittedDisk } from '../hypervisor.ts'
import { asList, asObject, countOf, isTrue, type JsonObject, optionalObject, optionalText, textOf } from './json.ts'
import type { QmpClient } from './qmp.ts'

/** Everything that a capture puts into QEMU bears this prefix, so that a later run knows it. Node names have at most 31 characters. */
export const OURS = 'lifeboat-'

export interface DirtyBitmap {
  readonly name: string
  readonly recording: boolean
  readonly inconsistent: boolean
  readonly busy: boolean
  /** Dirty, by QEMU's own count; a stopped image does not tell. */
  readonly bytes?: number
}

/** A device of the guest with a medium. */
export interface AttachedDisk {
  /** The qdev id, else the block backend's or node's name. */
  readonly name: string
  /** QOM path of the device that owns the `drive` property. */
  readonly path: string
  /** The node that the device reads and writes. */
  readonly node: string
  readonly size: number
  readonly format: string
  /** Only qcow2 of version 3 can keep bitmaps. */
  readonly keepsBitmaps: boolean
  readonly bitmaps: readonly DirtyBitmap[]
}

export interface BlockDevices {
  readonly disks: readonly AttachedDisk[]
  readonly omitted: readonly OmittedDisk[]
  /** Flash chips with firmware: not disks. */
  readonly flash: readonly {
    readonly name: string
    readonly node: string
    readonly readOnly: boolean
    readonly file?: string
  }[]
}

const PERIPHERAL = /^\/machine\/peripheral\/([^/]+)/

export function devicePath(qdev: string): string {
  return qdev.startsWith('/') ? qdev : `/machine/peripheral/${qdev}`
}

function deviceName(qdev: string, backend: string, node: string): string {
  const id = PERIPHERAL.exec(devicePath(qdev))?.[1]
  return id ?? (backend || node)
}

function parseBitmap(entry: JsonObject): DirtyBitmap[] {
  // QEMU's own working bitmaps have no name.
  const name = optionalText(entry, 'name')
  if (name === undefined) return []
  return [
    {
      name,
      recording: isTrue(entry, 'recording'),
      inconsistent: isTrue(entry, 'inconsistent'),
      busy: isTrue(entry, 'busy'),
      ...(typeof entry.count === 'number' && { bytes: entry.count }),
    },
  ]
}

export const bitmapsOf = (node: JsonObject): DirtyBitmap[] =>
  node['dirty-bitmaps'] === undefined ? [] : asList(node['dirty-bitmaps']).flatMap(parseBitmap)

function parseDisk(name: string, path: string, inserted: JsonObject): AttachedDisk {
  const image = asObject(inserted.image, 'an image')
  const format = textOf(inserted, 'drv')
  const compat = optionalText(optionalObject(optionalObject(image, 'format-specific'), 'data'), 'compat')
  return {
    name,
    path,
    node: textOf(inserted, 'node-name'),
    size: countOf(image, 'virtual-size'),
    format,
    keepsBitmaps: format === 'qcow2' && compat !== '0.10',
    bitmaps: bitmapsOf(inserted),
  }
}

export function parseBlockDevices(reply: unknown): BlockDevices {
  const disks: AttachedDisk[] = []
  const omitted: OmittedDisk[] = []
  const flash: { name: string; node: string; readOnly: boolean; file?: string }[] = []
  for (const entry of asList(reply, 'block devices')) {
    const qdev = optionalText(entry, 'qdev')
    // A drive that no device uses is no part of the guest.
    if (qdev === undefined) continue
    const inserted = optionalObject(entry, 'inserted')
    const node = optionalText(inserted, 'node-name') ?? ''
    const name = deviceName(qdev, optionalText(entry, 'device') ?? '', node)
    if (/^\/machine\/system\.flash\d$/.test(qdev) || /^pflash\d$/.test(name)) {
      if (inserted) flash.push({ name, node, readOnly: isTrue(inserted, 'ro'), file: optionalText(inserted, 'file') })
    } else if (isTrue(entry, 'removable')) omitted.push({ name, reason: inserted ? 'removable' : 'no-medium' })
    else if (!inserted) omitted.push({ name, reason: 'no-medium' })
    else if (isTrue(inserted, 'ro')) omitted.push({ name, reason: 'read-only' })
    else disks.push(parseDisk(name, devicePath(qdev), inserted))
  }
  return { disks, omitted, flash }
}

export interface NodeInfo {
  readonly name: string
  readonly file?: string
  readonly bitmaps: readonly DirtyBitmap[]
}

export async function queryNodes(qmp: QmpClient): Promise<NodeInfo[]> {
  const reply = await qmp.execute('query-named-block-nodes', qmp.version.major >= 5 ? { flat: true } : undefined)
  return asList(reply, 'block nodes').map(node => ({
    name: optionalText(node, 'node-name') ?? '',
    file: optionalText(node, 'file'),
    bitmaps: bitmapsOf(node),
  }))
}

/** For each of our filters, the node that it was put over. blockstats is the stable command that knows a node's child. */
export async function queryFilteredNodes(qmp: QmpClient): Promise<Map<string, string>> {
  const below = new Map<string, string>()
  for (const entry of asList(await qmp.execute('query-blockstats', { 'query-nodes': true }))) {
    const name = optionalText(entry, 'node-name')
    const child = optionalText(optionalObject(entry, 'parent'), 'node-name')
    if (name?.startsWith(OURS) && child !== undefined) below.set(name, child)
  }
  return below
}
