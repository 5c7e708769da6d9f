/** The JSON in which the server lists a guest's volumes, checked. */
import { limits } from '../core/limits.ts'
import { isName } from '../files/name.ts'
import { printable, protocolError } from './guest-errors.ts'
import type { Volume } from './guest-filesystems.ts'

const STATES: readonly Volume['state'][] = ['readable', 'locked', 'unsupported', 'nothing']
const TEXT_MAX = 1024

export function parseVolumes(json: string): readonly Volume[] {
  const list = parseJson(json)
  if (!Array.isArray(list)) throw protocolError('volumes that are no list')
  if (list.length > limits.guestVolumesMax) throw protocolError(`${list.length} volumes`)
  const volumes = list.map(parseVolume)
  if (new Set(volumes.map(volume => volume.name)).size < volumes.length) throw protocolError('two volumes of one name')
  return volumes
}

/** What an object of JSON says; `undefined` where it is none. */
export const fieldsOf = (value: unknown): ReadonlyMap<string, unknown> | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? new Map(Object.entries(value)) : undefined

export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw protocolError('text that is no JSON')
  }
}

function parseVolume(value: unknown): Volume {
  const fields = fieldsOf(value)
  if (fields === undefined) throw protocolError('a volume that is no object')
  const name = textOf(fields, 'name')
  if (name === undefined || !isName(name)) throw protocolError('a volume without a name')
  const sizeBytes = fields.get('sizeBytes')
  if (typeof sizeBytes !== 'number' || !Number.isSafeInteger(sizeBytes) || sizeBytes < 0)
    throw protocolError(`the size of ${name}`)
  const state = STATES.find(each => each === fields.get('state'))
  if (state === undefined) throw protocolError(`the state of ${name}`)
  const volume: Volume = { name, sizeBytes, state }
  const texts = (['disk', 'type', 'label', 'uuid', 'reason'] as const).flatMap(key => {
    const text = textOf(fields, key)
    return text === undefined || text === '' ? [] : [[key, text] as const]
  })
  const needs = fields.get('needs') === 'appliance' ? { needs: 'appliance' as const } : {}
  return { ...volume, ...Object.fromEntries(texts), ...needs }
}

/** Labels are the guest's: control characters in them are for somebody's terminal. */
function textOf(fields: ReadonlyMap<string, unknown>, name: string): string | undefined {
  const value = fields.get(name)
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'string' || value.length > TEXT_MAX) throw protocolError(`the ${name} of a volume`)
  return name === 'name' ? value : printable(value)
}
