/** What QEMU says, from `unknown` to values: the only place where its JSON is taken apart. A missing field is a clear error. */
import { LifeboatError } from '../../core/errors.ts'

export type JsonObject = { readonly [name: string]: unknown }

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const unexpected = (what: string, value: unknown) =>
  new LifeboatError('qmp-failed', `QEMU answered without ${what}`, {
    details: { answer: JSON.stringify(value)?.slice(0, 200) },
    hint: 'This QEMU is older or newer than what Lifeboat knows; please report its version.',
  })

export function asObject(value: unknown, what = 'an object'): JsonObject {
  if (!isObject(value)) throw unexpected(what, value)
  return value
}

export function asList(value: unknown, what = 'a list'): readonly JsonObject[] {
  if (!Array.isArray(value)) throw unexpected(what, value)
  return value.map(entry => asObject(entry, what))
}

export function textOf(object: JsonObject, name: string): string {
  const value = object[name]
  if (typeof value !== 'string') throw unexpected(name, object)
  return value
}

export function optionalText(object: JsonObject | undefined, name: string): string | undefined {
  const value = object?.[name]
  return typeof value === 'string' ? value : undefined
}

export function countOf(object: JsonObject, name: string): number {
  const value = object[name]
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw unexpected(name, object)
  return value
}

export function optionalObject(object: JsonObject | undefined, name: string): JsonObject | undefined {
  const value = object?.[name]
  return isObject(value) ? value : undefined
}

export const isTrue = (object: JsonObject | undefined, name: string): boolean => object?.[name] === true

export function parseJsonObject(line: Uint8Array): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(line.buffer, line.byteOffset, line.length).toString('utf8'))
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}
